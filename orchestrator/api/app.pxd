# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.arrivals cimport Arrivals
from orchestrator.api.exchange cimport Exchange
from orchestrator.api.gate cimport Gate
from orchestrator.api.limits cimport Limits
from orchestrator.api.numbers cimport Numbers
from orchestrator.api.recorder cimport Recorder
from orchestrator.api.routes cimport Routes
from orchestrator.api.watch cimport Watches


@cython.final
cdef class PublicApi:
    cdef public Py_ssize_t _body_max_bytes
    cdef public Watches _watches
    cdef public Arrivals _arrivals
    cdef public Gate _gate
    cdef public Limits _limits
    cdef public Recorder _recorder
    cdef public Numbers _numbers
    cdef public Routes _routes
    cdef public object _idempotency, _monotonic, _wall

    cpdef _route(self, Exchange exchange, scope)
    @cython.locals(now=double)
    cpdef bytes _lines(self, Exchange exchange, status, own)
