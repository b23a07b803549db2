# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class HostCheck:
    cdef public object _app, _origins
    cdef public set _known

    cpdef bint _serves(self, bytes host) except -1


cpdef header(scope, bytes name)
@cython.locals(key=bytes)
cpdef bytes _first(headers, bytes name)
