# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class Outbox:
    cdef public object _on_close, _write_now, _frames, _loop, _wake, closing
    cdef public list _items
    cdef public Py_ssize_t _items_bytes, _queued_bytes
    cdef public bint _flushing, _writing

    @cython.locals(size_bytes=Py_ssize_t)
    cpdef hand(self, items)
    cpdef _queued(self, Py_ssize_t size_bytes)
    cpdef _pack(self)
