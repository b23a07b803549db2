# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.checking cimport Checking
from orchestrator.domain.model cimport Attempt, Job, NewJob, Node
from orchestrator.domain.outcomes cimport Outcomes
from orchestrator.domain.placement cimport Demand, Placement
from orchestrator.domain.placing cimport Placing
from orchestrator.domain.timers cimport Timers


@cython.final
cdef class Scheduler:
    cdef public object options, policy
    cdef public Board board
    cdef public Checking checking
    cdef public Placement placement
    cdef public Placing placing
    cdef public Outcomes outcomes
    cdef public object _liveness
    cdef public bint _draining

    @cython.locals(board=Board, timers=Timers, demand=Demand)
    cpdef _submit(self, NewJob spec, double now)
