# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class KnownTexts:
    cdef public dict _recent
    cdef public set _projects, _silent
    cdef public object _references, _policy, _rng
