# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef trait_of(manifest, output)
