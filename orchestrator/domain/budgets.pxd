# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Budget:
    cdef public double share
    cdef public double burst, credit
    cdef public Py_ssize_t spent

    cpdef earn(self)
