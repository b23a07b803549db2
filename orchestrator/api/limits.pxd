# C types for the compiled form of this module (orchestrator/compiled.py).

cimport cython


@cython.final
cdef class _Meter:
    cdef public _Meter project
    cdef public double requests_full_s, tokens_full_s


@cython.final
cdef class _Rate:
    cdef public object limit, unit, whose
    cdef public bytes line
    cdef public double each_s, per_s, room


@cython.final
cdef class Limits:
    cdef public object _monotonic
    cdef public _Rate _key_requests, _project_requests, _key_tokens, _project_tokens
    cdef public dict _keys, _projects
    cdef public Py_ssize_t _look_at

    @cython.locals(
        now=double, meter=_Meter, project=_Meter, of_key=_Rate, of_project=_Rate,
        key_full_s=double, project_full_s=double,
    )
    cpdef admit(self, principal)
    @cython.locals(
        now=double, meter=_Meter, project=_Meter, key_full_s=double, project_full_s=double
    )
    cpdef charge_tokens(self, principal, tokens)
    @cython.locals(
        meter=_Meter, project=_Meter, requests=_Rate, tokens=_Rate, other=_Rate, left=double,
        tokens_left=double, other_left=double, wait_s=double, tokens_s=double, other_s=double,
    )
    cpdef bytes lines(self, principal, double now)
    @cython.locals(meter=_Meter, project=_Meter)
    cpdef _Meter _add(self, principal, double now)


cpdef double _charged(_Rate rate, double full_s, tokens, double now) except? -1.0
cpdef bytes duration(double seconds)
