# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef audit_share(standing, policy)
