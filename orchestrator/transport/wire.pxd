# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Wire:
    cdef public object transport, _writable
    cdef public bint read_paused, write_paused

    cpdef write(self, raw)
    cpdef close(self)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef pause_writing(self)
    cpdef resume_writing(self)
