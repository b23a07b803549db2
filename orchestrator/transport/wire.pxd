# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Wire:
    cdef public object transport, _writable
    cdef public bint read_paused, write_paused, crowded
    cdef public Py_ssize_t written_bytes

    cpdef write(self, bytes raw)
    cpdef close(self)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef crowd(self)
    cpdef uncrowd(self)
    cpdef pause_writing(self)
    cpdef resume_writing(self)
