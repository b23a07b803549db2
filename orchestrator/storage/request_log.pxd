# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class RequestLog:
    cdef public object _writer

    cpdef append(self, row)
