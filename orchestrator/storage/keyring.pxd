# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class _Entry:
    cdef public object principal
    cdef public double looked_up_at, believed_until


@cython.final
cdef class Keyring:
    cdef public object _pepper, _lookup, _monotonic, _keyed, _first, _again
    cdef public double _ttl_s
    cdef public Py_ssize_t _max_entries
    cdef public dict _known, _unknown

    @cython.locals(entry=_Entry)
    cpdef tuple cached(self, api_key)
    cpdef bytes _index(self, api_key)
