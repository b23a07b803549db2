# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.gate cimport Gate


@cython.final
cdef class Exchange:
    cdef public Gate gate
    cdef public str number, endpoint, name, priority, model, place, node_id, read
    cdef public double started_s, ts
    cdef public object headers, receive, principal, scope, deadline_s, billed
    cdef public bytes query
    cdef public Py_ssize_t held_bytes, input_tokens, output_tokens, attempts
