# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef check_responses(asked, model)
cpdef _check_shared(asked, model)
cpdef limit_of(model, truncation)
