# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.exchange cimport Exchange


@cython.final
cdef class EmbeddingsRoute:
    cdef public object _inference, _inputs_max


cpdef _check_form(asked, model)
@cython.locals(at=Py_ssize_t, pieces=list)
cpdef bytes _list(Exchange exchange, asked, answers)
