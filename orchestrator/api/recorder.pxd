# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.exchange cimport Exchange


@cython.final
cdef class Recorder:
    cdef public object _log, _metrics, _monotonic
    cdef public dict _refused_at

    @cython.locals(latency_s=double)
    cpdef record(self, Exchange exchange, status, code)
