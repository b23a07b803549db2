# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.transport.wire cimport Wire


@cython.final
cdef class Cycle:
    cdef public Wire wire
    cdef public dict scope
    cdef public bint keep_alive, waiting_for_100_continue
    cdef public bint disconnected, more_body, response_started, response_complete
    cdef public object task, _default_headers, _on_answered, _body, _told
    cdef public bint _is_head, _chunked, _ends_by_closing, _news
    cdef public Py_ssize_t _left_bytes
    cdef object __weakref__

    cpdef Py_ssize_t hold(self, bytes body) except -1
    cpdef end_body(self)
    cpdef disconnect(self)
    cpdef _tell(self)
    cpdef _answer(self, message)
    cpdef _whole_head(self, status, headers, bytes lines, Py_ssize_t body_bytes)
    @cython.locals(says_how=bint, says_close=bint)
    cpdef _start(self, status, headers)
    cpdef _continue(self, body, more_body)
    cpdef _finish(self)
