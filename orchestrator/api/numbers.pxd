# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Numbers:
    cdef public Py_ssize_t _at
    cdef public long long _ms
    cdef public str _random, _time
    cdef public object _wall

    @cython.locals(start=Py_ssize_t, end=Py_ssize_t, ms=cython.longlong)
    cpdef str at(self, double ts)
