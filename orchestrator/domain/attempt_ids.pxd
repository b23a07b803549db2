# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class AttemptIds:
    cdef public object _rng
    cdef public str _digits
    cdef public Py_ssize_t _at
