# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Paths:
    cdef public dict _exact, _sockets
    cdef public tuple _prefixes
    cdef public object _other
