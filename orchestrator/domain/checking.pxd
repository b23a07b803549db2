# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.model cimport Attempt, Job, Node, Speed


@cython.final
cdef class Checking:
    cdef object _newcomers_per_network
    cdef Board _board
    cdef readonly object policy, records
    cdef object _rng, _known
    cdef dict _checks
    cdef Py_ssize_t _check_number
    cdef readonly object audits
    cdef Py_ssize_t _audit_bytes
    cdef object _late
    cdef double _background
    cdef dict _traits
    cdef public object on_answered, place

    cpdef asked(self, Job job)
    @cython.locals(speed=Speed)
    cpdef edge_answered(self, Job job, Node node, answer, trait, double now)


cdef bint _may_replay(Job job) except -1
