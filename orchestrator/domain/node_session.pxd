# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.deltas cimport Deltas


@cython.final
cdef class NodeSession:
    cdef public object _agree, _network, _location, _cpu_share, _admit, _models
    cdef public object _references, _ping_n
    cdef public object trusted, state, node_id, hello
    cdef public dict _challenges, _held, _pings
    cdef public set _waiting, _revealing
    cdef public Deltas _deltas

    cpdef hold(self, items)
    cpdef _receive_frame(self, frame, double now)
    cpdef list _results(self, frame)
