# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.transport.cycle cimport Cycle
from orchestrator.transport.wire cimport Wire


@cython.final
cdef class HttpConnection:
    cdef public object bounds, loop, config, app, server_state, app_state, parser
    cdef public Sweep sweep
    cdef public set tasks
    cdef public Wire wire
    cdef public dict _common, scope
    cdef public bytes url
    cdef public list headers
    cdef public Py_ssize_t _hosts
    cdef public bint _expects_100_continue, _in_head, _asked, _refused, _quiet, _moved, _deaf
    cdef public Cycle cycle, _answered
    cdef public object pipeline, _why, _wait, _unread_since_s
    cdef public Py_ssize_t _piece_bytes, _headless_bytes, _body_bytes, _mark_bytes, _read_bytes
    cdef public Py_ssize_t _ahead_bytes, _begun_bytes
    cdef public double _since_s
    cdef object __weakref__

    cpdef _new_parser(self)
    cpdef _ask(self, dict scope, bint keep_alive)
    cpdef _answer(self, Cycle cycle)
    cpdef _count_headless(self)
    cpdef _hand_over(self)
    cpdef bytes _ask_again(self)
    cpdef _stop(self, error)
    @cython.locals(cycle=Cycle)
    cpdef _refuse(self, error)
    cpdef _say(self, error)
    cpdef _hear_no_more(self, Cycle last)
    @cython.locals(waited_s=double)
    cpdef look(self, double now)
    cpdef _give_up_head(self)
    @cython.locals(cycle=Cycle)
    cpdef _waits_for(self)
    @cython.locals(unread_bytes=Py_ssize_t)
    cpdef bint _is_stalled(self, double now) except -1


@cython.final
cdef class Sweep:
    cdef public double _every_s
    cdef public set _open
    cdef public bint _sweeping

    cpdef add(self, HttpConnection connection, loop)
    cpdef discard(self, HttpConnection connection)
