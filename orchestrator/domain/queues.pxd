# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Queues:
    cdef readonly dict all, cloud, lanes, by_project
    cdef readonly Py_ssize_t size
    cdef object _numbers
