# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.model cimport Node


@cython.final
cdef class Demand:
    cdef public double _at, _rate
    cdef public double last_at

    cpdef add(self, Py_ssize_t tokens, double now)
    cpdef double rate(self, double now)


@cython.final
cdef class Placement:
    cdef public Board _board
    cdef public object _references
    cdef public dict demand
    cdef public object _round
    cdef public set _in_round
    cdef public object _joined_first_at

    cpdef settle(self, Node node, double now)
