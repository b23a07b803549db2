# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.storage.keyring cimport Keyring


@cython.final
cdef class Gate:
    cdef public Keyring _keyring
    cdef public bint _wants_project
    cdef public Py_ssize_t _key_concurrency, _project_concurrency, _bytes_max, _bytes_held
    cdef public dict _under_way, _of_projects

    cpdef recognise(self, headers)
    cpdef check(self, principal, headers)
    @cython.locals(count=Py_ssize_t, of_project=Py_ssize_t)
    cpdef enter(self, principal)
    cpdef hold(self, Py_ssize_t size_bytes)
    @cython.locals(count=Py_ssize_t)
    cpdef leave(self, principal, Py_ssize_t held_bytes)


cpdef bytes _presented_key(headers)
