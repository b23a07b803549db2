# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Watch:
    cdef public object task, receive, listener
    cdef public double started_s
    cdef public bint reading, timed_out, client_gone

    cpdef look(self, loop, double late_s)


@cython.final
cdef class Watches:
    cdef public double _body_timeout_s, _look_every_s
    cdef public object _loop
    cdef public set _open
    cdef public bint _sweeping

    cpdef Watch start(self, receive)
    cpdef resume(self, Watch watch)
    cpdef stop(self, Watch watch)
