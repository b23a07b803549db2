# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef refuse_encoded(encoding)
cpdef list error_headers(error)
cpdef bytes error_body(error)
