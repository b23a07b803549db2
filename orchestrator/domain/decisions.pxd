# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Decision:
    cdef public str node_id
    cdef public double rtt_s, backlog_s, service_s, cold_load_s, penalty_s, finish_s
    cdef public object soonest_s
    cdef public Py_ssize_t considered
    cdef public object skipped


@cython.final
cdef class Placed:
    cdef public double at_s
    cdef public str job_id, project_id, model_id
    cdef public Py_ssize_t tokens
    cdef public str purpose, attempt_id
    cdef public double waited_s
    cdef public Decision decision
    cdef public str outcome
    cdef public object took_s


@cython.final
cdef class Decisions:
    cdef public object _ring

    cpdef add(self, Placed placed)
