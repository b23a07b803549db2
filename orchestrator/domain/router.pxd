# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.decisions cimport Decision
from orchestrator.domain.index cimport OpenSet
from orchestrator.domain.model cimport Node, Speed


cpdef double finish_s(
    Node node, digest, Py_ssize_t tokens, bint background=*, double cold_load_s=*
) except? -1.0
@cython.locals(
    speed=Speed, rate=double, overhead=double, ahead=double, rtt=double, backlog=double,
    service=double, penalty=double, total=double,
)
cpdef Decision explain(
    Node node, digest, Py_ssize_t tokens, Py_ssize_t considered, skipped,
    bint background=*, double cold_s=*,
)


@cython.final
cdef class Found:
    cdef public Py_ssize_t considered
    cdef public dict skipped
    cdef public object soonest_s

    cpdef skip(self, reason)
    cpdef sooner(self, finish_s)


@cython.locals(
    best=Node, best_s=double, best_cost=double, shrink=double, finishes=bint, ordered=bint,
    barred=bint, keeps_free=bint, floor_s=double, nodes=list, node=Node, measured=Speed,
    outstanding=Py_ssize_t, ahead=double, finish=double, cost=double,
)
cpdef tuple choose(
    OpenSet candidates, digest, Py_ssize_t tokens, tried, double now, double limit_s, rng,
    list silent, networks=*, rule=*, bint geo=*, bint idle_only=*, bint background=*,
    double kept_free_from=*,
)
