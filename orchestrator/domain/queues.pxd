# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Queues:
    cdef public dict all, cloud, lanes, by_project
    cdef public Py_ssize_t size
    cdef public object _numbers
