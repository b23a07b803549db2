# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.model cimport Attempt, Node, Speed


@cython.locals(arrived_at=double, attempt=Attempt)
cpdef observe(Node node, attempts, double now)
@cython.locals(speed=Speed)
cpdef _close(Node node)
@cython.locals(gain=double, per_token=double, prior=double, slope=double)
cpdef learn(Speed speed, Py_ssize_t tokens, double seconds)
