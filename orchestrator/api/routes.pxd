# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Routes:
    cdef public dict _exact
    cdef public list _patterns
    cdef public str _paths

    cpdef tuple find(self, str method, str path)
