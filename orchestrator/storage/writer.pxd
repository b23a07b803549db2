# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Writer:
    cdef public object _database, _queue, _wakeup, _closing, _given_up, _settling, _thread
    cdef public Py_ssize_t _queue_max, _appended
    cdef public double _flush_s
    cdef public bint _failing, _woken, _closed
    cdef public Py_ssize_t written, dropped

    cpdef append(self, insert, row)
