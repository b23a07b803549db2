# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Timers:
    cdef object _find, _find_job
    cdef public double first_at
    cdef list _heap
    cdef object _deadlines, _numbers

    cpdef arm(self, double at, what)
    cpdef arm_deadline(self, double at, what)
    cpdef due(self, double now)
    cdef _look(self)
