# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class HostCheck:
    cdef public object _app, _serves


cpdef header(scope, bytes name)
