# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.model cimport Attempt, Job, Node, Speed


@cython.final
cdef class Checking:
    cdef public object _newcomers_per_network
    cdef public Board _board
    cdef public object policy, records
    cdef public object _rng, _known
    cdef public dict _checks
    cdef public Py_ssize_t _check_number
    cdef public object audits
    cdef public object showing
    cdef public object _late
    cdef public double _background
    cdef public dict _traits
    cdef public object on_answered, place, on_unpaired

    cpdef asked(self, Job job)
    @cython.locals(speed=Speed)
    cpdef edge_answered(self, Job job, Node node, answer, trait, double now)


@cython.locals(commitment=bytes)
cpdef claim_of(node_id, result, double now)
cpdef bint _may_replay(Job job) except -1
