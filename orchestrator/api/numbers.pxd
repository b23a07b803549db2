# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Numbers:
    cdef public Py_ssize_t _at
    cdef public str _random
    cdef public object _wall

    cpdef str at(self, double ts)
