# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef check_not_blank(str text, name)
