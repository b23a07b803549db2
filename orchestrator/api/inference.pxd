# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.exchange cimport Exchange


@cython.final
cdef class Inference:
    cdef public object _catalogue, _engine, _charge, _deadline_s
    cdef public dict _offers

    cpdef _take(self, Exchange exchange, tokens)
    cpdef _job(self, Exchange exchange, model, measured, Py_ssize_t at, params, stream=*)


cdef class Pieces:
    cdef public object _model, _source, _first
    cdef public Exchange _exchange
    cdef public list _said
    cdef public Py_ssize_t _said_chars
    cdef public bint _ended, _counted


cpdef _check_length(model, limit, text, measured, name)
cpdef _note(Exchange exchange, answers)
