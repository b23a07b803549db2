# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Timers:
    cdef public object _find, _find_job
    cdef public double first_at
    cdef public list _heap
    cdef public object _deadlines, _numbers

    cpdef arm(self, double at, what)
    cpdef arm_deadline(self, double at, what)
    cpdef due(self, double now)
    cpdef _look(self)
