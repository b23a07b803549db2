# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Deltas:
    cdef public dict _expected, _taken_back

    cpdef ended(self, attempt_id)
