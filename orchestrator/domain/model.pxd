# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython

from orchestrator.domain.decisions cimport Placed


@cython.final
cdef class NewJob:
    cdef public str job_id, digest, input
    cdef public Py_ssize_t tokens
    cdef public str project_id
    cdef public object params, rules
    cdef public double deadline_s
    cdef public str priority
    cdef public bint stream
    cdef public Py_ssize_t request_tokens


@cython.final
cdef class Job:
    cdef public NewJob spec
    cdef public double submitted_at, deadline_at
    cdef public Py_ssize_t attempts, edge_attempts, cloud_attempts
    cdef public list tried, live
    cdef public object waits_in
    cdef public bint cloud_only, judging, hedged
    cdef public str relayed
    cdef public Py_ssize_t deaths
    cdef public str accuser
    cdef public list held, ended


@cython.final
cdef class Attempt:
    cdef public str attempt_id, job_id, node_id, digest
    cdef public Py_ssize_t tokens
    cdef public double started_at, expected_s, lease_at, hard_at
    cdef public str purpose
    cdef public double hedge_at
    cdef public bint overdue
    cdef public object task, known, claimed, subject
    cdef public bint real
    cdef public str project_id
    cdef public bint alone, background
    cdef public Placed placed


@cython.final
cdef class Speed:
    cdef public double tokens_per_s, overhead_s, tokens, seconds, variance, covariance
    cdef public double ratio, deviation
    cdef public Py_ssize_t samples
    cdef public double calibrated_s
    cdef public dict elsewhen
    cdef public str group, tier
    cdef public Py_ssize_t step
    cdef public double supply
    cdef public object trait, asked
    cdef public Py_ssize_t repeats


@cython.final
cdef class Node:
    cdef public str node_id
    cdef public bint trusted
    cdef public object memory_mb
    cdef public double joined_at, last_frame_at
    cdef public object standing
    cdef public str level
    cdef public bint recalled
    cdef public str network, region
    cdef public object rtt_guess_s
    cdef public bint data_saver
    cdef public double last_answer_at, requested_at, run_at
    cdef public Py_ssize_t run_tokens
    cdef public str run_digest, state, reason
    cdef public Py_ssize_t slots
    cdef public object rtt_s
    cdef public double download_bytes_per_s
    cdef public tuple cached, loading
    cdef public double load_began_at
    cdef public tuple lost
    cdef public dict speeds, attempts
    cdef public Py_ssize_t outstanding_tokens, background, background_tokens
    cdef public bint stale, late
    cdef public Py_ssize_t owing
    cdef public double probed_at
    cdef public bint draining, alone
    cdef public frozenset seen
    cdef public Py_ssize_t consecutive_failures
    cdef public double retry_at
    cdef public Py_ssize_t jobs_done, failures, reroutes
