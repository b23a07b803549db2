# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.decisions cimport Decision, Decisions, Placed
from orchestrator.domain.index cimport Index
from orchestrator.domain.leases cimport Leases
from orchestrator.domain.model cimport Attempt, Job, Node
from orchestrator.domain.queues cimport Queues
from orchestrator.domain.timers cimport Timers


@cython.final
cdef class Counters:
    cdef public Py_ssize_t answered_edge, answered_cloud, rerouted, failed, late_results, hedged
    cdef public Py_ssize_t audits, replays, trials, disagreed, audits_dropped
    cdef public Py_ssize_t edge_tokens, cloud_tokens, hedge_tokens, audit_tokens, replay_tokens
    cdef public Py_ssize_t trial_tokens
    cdef public dict purposes


@cython.final
cdef class Board:
    cdef public object models
    cdef public Leases leases
    cdef public dict nodes, workers, sessions, jobs, attempts
    cdef public Index index
    cdef public Queues queues
    cdef public Decisions decisions
    cdef public Counters counters
    cdef public list effects
    cdef public dict _shown, _outbox
    cdef public object _new_attempt_id, _attempt_of, _job_of, _node_of
    cdef public Timers timers

    cpdef changed(self, Node node, double now)
    @cython.locals(
        lease_s=double, hard_s=double, hedge_s=double, hedge_at=double, isolated=bint, edge=bint
    )
    cpdef Attempt start(
        self, Node node, Decision decision, digest, task, Py_ssize_t tokens, double now, purpose,
        Job job=*, bint alone=*, subject=*, bint background=*, known=*, claimed=*, bint real=*,
        project_id=*, bint stream=*,
    )
    @cython.locals(waited_s=double)
    cpdef Placed _note(self, Job job, attempt_id, purpose, Decision decision, double now)
    @cython.locals(counters=Counters)
    cpdef _count(self, Attempt attempt)
    @cython.locals(node=Node, job=Job, placed=Placed)
    cpdef release(self, Attempt attempt, outcome, double now, bint regroup=*)
    @cython.locals(counters=Counters)
    cpdef deliver(self, Job job, Node node, answer, double compute_s, double now)
    cpdef _forget(self, Job job)
    cpdef list flush(self)
