# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.exchange cimport Exchange


@cython.final
cdef class ResponsesRoute:
    cdef public object _inference, _clock


cpdef bytes completed_response(Exchange exchange, asked, limit, clock, output)
cpdef bint echoes_nothing(asked)
