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
    cdef public object _node_log, _court, _coming, _models, _clock, _timer
    cdef public object _events, _latencies_s, _idle, _loop
    cdef public bint _applying
    cdef public Scheduler _scheduler
    cdef public dict _connections
    cdef public dict _waiting
    cdef public double _timer_at
    cdef public Py_ssize_t _event_seq
    cdef public object worker_state, on_hung_worker
    cdef object __weakref__

    cpdef _Waiting _wait_for(self, jobs)
    cpdef _withdraw(self, _Waiting waiting, jobs)
    cpdef receive(self, Connection connection, data)
    @cython.locals(now=double)
    cpdef apply(self, event)
    cpdef _perform_steps(self, Connection connection, steps)
    cpdef _perform_step(self, Connection connection, step)
    @cython.locals(connection=Connection)
    cpdef _perform(self, effect)
    @cython.locals(waiting=_Waiting)
    cpdef _deliver(self, answer)
    cpdef _settle(self, _Waiting waiting, job_id)
    cpdef _arm(self)
    cpdef _notice_oversleep(self, double now)
