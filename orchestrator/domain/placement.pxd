# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.model cimport Node


@cython.final
cdef class Demand:
    cdef double _at, _rate
    cdef readonly double last_at

    cpdef add(self, Py_ssize_t tokens, double now)
    cpdef double rate(self, double now)


@cython.final
cdef class Placement:
    cdef Board _board
    cdef object _references
    cdef readonly dict demand
    cdef readonly object _round
    cdef set _in_round
    cdef public object _joined_first_at

    cpdef settle(self, Node node, double now)
