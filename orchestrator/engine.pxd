# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.scheduler cimport Scheduler


@cython.final
cdef class Connection:
    cdef public object session, link


@cython.final
cdef class _Waiting:
    cdef public object future
    cdef public double submitted_at
    cdef public Py_ssize_t open
    cdef public dict answers
    cdef public object stream


cdef class Engine:
    cdef object _node_log, _court, _coming, _models, _clock, _timer, _events, _latencies_s, _idle
    cdef bint _applying
    cdef Scheduler _scheduler
    cdef readonly dict _connections
    cdef dict _waiting
    cdef double _timer_at
    cdef Py_ssize_t _event_seq
    cdef public object worker_state, on_hung_worker
    cdef object __weakref__

    cdef _withdraw(self, _Waiting waiting, jobs)
    cpdef receive(self, Connection connection, data)
    @cython.locals(now=double)
    cpdef apply(self, event)
    cdef _perform_steps(self, Connection connection, steps)
    cdef _perform_step(self, Connection connection, step)
    @cython.locals(connection=Connection)
    cdef _perform(self, effect)
    @cython.locals(waiting=_Waiting)
    cpdef _deliver(self, answer)
    cdef _settle(self, _Waiting waiting, job_id)
    cdef _arm(self)
    cdef _notice_oversleep(self, double now)
