# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.model cimport Attempt, Node, Speed


@cython.final
cdef class Leases:
    cdef public bint _fixed

    @cython.locals(speed=Speed, latest_s=double, hedge_s=double, lease_s=double, hard_s=double)
    cpdef tuple size(self, Node node, digest, double expected_s)


@cython.locals(expected_s=double, ratio=double, most=double)
cpdef kept(Speed speed, Attempt attempt, double now)
