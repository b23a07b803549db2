# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef _measure(count, str text, limit)
cpdef tuple _start(str text, Py_ssize_t size)
