# C types for the compiled form of this module (orchestrator/compiled.py).

cpdef trait_of(manifest, bytes output)
cpdef bint _is_text(bytes output) except -1
