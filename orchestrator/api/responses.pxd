# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.exchange cimport Exchange


@cython.final
cdef class ResponsesRoute:
    cdef public object _inference, _clock


@cython.locals(
    began=cython.longlong, ended=cython.longlong, tokens=Py_ssize_t, written=Py_ssize_t
)
cpdef bytes completed_response(Exchange exchange, asked, limit, clock, output)
cpdef bytes _count(Py_ssize_t number)
cpdef bint echoes_nothing(asked)
