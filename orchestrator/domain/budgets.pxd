# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Budget:
    cdef readonly double share
    cdef public double burst, credit
    cdef readonly Py_ssize_t spent

    cpdef earn(self)
