# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Decisions:
    cdef public object _ring

    cpdef add(self, placed)
