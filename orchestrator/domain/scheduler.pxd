# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.checking cimport Checking
from orchestrator.domain.model cimport Attempt, Job, Node
from orchestrator.domain.outcomes cimport Outcomes
from orchestrator.domain.placement cimport Demand, Placement
from orchestrator.domain.placing cimport Placing
from orchestrator.domain.timers cimport Timers


@cython.final
cdef class Scheduler:
    cdef readonly object options, policy
    cdef readonly Board board
    cdef readonly Checking checking
    cdef readonly Placement placement
    cdef readonly Placing placing
    cdef readonly Outcomes outcomes
    cdef object _liveness
    cdef bint _draining

    @cython.locals(board=Board, timers=Timers, demand=Demand)
    cdef _submit(self, spec, double now)
