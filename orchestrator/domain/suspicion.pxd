# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.model cimport Speed


@cython.final
cdef class Traits:
    cdef public dict _counts
    cdef public Py_ssize_t _total

    @cython.locals(total=Py_ssize_t, before=Py_ssize_t)
    cpdef bint suspicious(self, Speed speed, trait, asked) except -1

