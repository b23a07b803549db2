# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class _Times:
    cdef public list counts
    cdef public double sum_s


@cython.final
cdef class _Answers:
    cdef public Py_ssize_t count
    cdef public _Times times
