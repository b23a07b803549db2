# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef bint _waits_for_a_frame(parser) except -1
cpdef tuple _whole(bytes data, Py_ssize_t at)
cpdef bytes _head(Py_ssize_t size_bytes)
