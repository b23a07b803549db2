# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.model cimport Speed


@cython.final
cdef class Traits:
    cdef readonly dict _counts
    cdef readonly Py_ssize_t _total
