# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.checking cimport Checking
from orchestrator.domain.model cimport Attempt, Job, Node, Speed
from orchestrator.domain.placement cimport Placement
from orchestrator.domain.placing cimport Placing


@cython.final
cdef class Outcomes:
    cdef public Board board
    cdef public Placing placing
    cdef public Checking checking
    cdef public Placement placement
    cdef public list left_out
    cdef public object may_probe

    @cython.locals(board=Board, node=Node, attempt=Attempt, speed=Speed)
    cpdef finished(self, event, double now)
    @cython.locals(board=Board, job=Job)
    cpdef _result(self, Node node, Attempt attempt, result, double now)
