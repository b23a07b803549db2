# C types for the compiled form of this module (orchestrator/compiled.py).

from orchestrator.domain.model cimport Job
from orchestrator.domain.queues cimport Queues


cpdef bint is_batch(Job job) except -1
cpdef bint requests_wait(Queues queues, Job job) except -1
