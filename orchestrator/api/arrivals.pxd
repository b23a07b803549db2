# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.api.watch cimport Watch


@cython.final
cdef class Arrivals:
    cdef public set _coming
    cdef public bint over

    cpdef begin(self, Watch watch)
    cpdef end(self, Watch watch)
