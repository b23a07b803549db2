# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.model cimport Node, Speed


cpdef double rtt_s(Node node)
cpdef double ahead_tokens(Node node, double tokens_per_s)


@cython.final
cdef class OpenSet:
    cdef public dict _steps, _at
    cdef public list in_order

    cpdef add(self, Node node, Py_ssize_t step)
    cpdef discard(self, Node node)


@cython.final
cdef class Fleet:
    cdef public object _passed_over
    cdef public OpenSet busy
    cdef public dict groups, late, loading, open, ready
    cdef public double supply_tokens_per_s

    cpdef passed_over(self)


@cython.final
cdef class Index:
    cdef public dict fleets
    cdef public dict _needed_mb, _memory_mb
    cdef public Py_ssize_t edge_nodes
    cdef public bint forgiving

    cpdef OpenSet open_set(self, digest, tier, region=*)
    @cython.locals(speed=Speed, outstanding=Py_ssize_t, step=Py_ssize_t)
    cpdef update(self, Node node, double now)
    @cython.locals(speed=Speed, outstanding=Py_ssize_t)
    cpdef took(self, Node node, double now)
    cpdef str _group(self, Node node, double now)


cpdef Py_ssize_t _step(Node node, Speed speed) except? -1
