# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.board cimport Board
from orchestrator.domain.budgets cimport Budget
from orchestrator.domain.model cimport Attempt, Job, Node
from orchestrator.domain.router cimport Found


@cython.final
cdef class Placing:
    cdef public Board _board
    cdef public object _placement, _options, _rng, _turns
    cdef public Budget hedges, retries
    cdef public bint worker_expected
    cdef public list silent
    cdef public object admission

    cpdef bint may_run_on_edge(self, Job job) except -1
    @cython.locals(node=Node, found=Found, second=Node, batch=bint, left_s=double, within_s=double)
    cpdef start_on_edge(self, Job job, double now, limit_s=*)
    cpdef tuple _choose(
        self, Job job, double now, double limit_s, double kept_free_from=*, networks=*, tier=*,
        bint idle_only=*,
    )
    @cython.locals(board=Board, background=bint)
    cpdef Attempt _start(self, Job job, Node node, purpose, Found found, double now)
    cpdef _subject(self, Job job, Node node)
