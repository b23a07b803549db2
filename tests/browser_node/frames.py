"""One example of every frame, and strategies that make any frame."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from browser_node import protocol as p

DIGEST = "0123456789abcdef" * 4
NODE_FRAMES: tuple[type[p.Frame], ...] = typing.get_args(p.NodeFrame)
ORCHESTRATOR_FRAMES: tuple[type[p.Frame], ...] = typing.get_args(p.OrchestratorFrame)

_RECIPE = p.Recipe(
    model_id="all-minilm-l6-v2",
    version="1",
    digest=DIGEST,
    files=(p.RecipeFile(path="model.onnx", sha256=DIGEST, size_bytes=23_492_178),),
)
_TASK = p.Task(input="A known question.", params={"sentences": 3, "strict": True})

# Every field is set, so that a golden file shows the whole frame; except `JobItem.stream` and
# `JobItem.background`, which are younger: an item without them has the bytes it had before.
EXAMPLES: dict[str, p.Frame] = {
    "hello": p.Hello(
        versions=(1,),
        nonce="n-1",
        public_key=b"\x04" + bytes(64),
        signature=bytes(range(64)),
        ticket="t-1",
        runtime=p.Runtime(kind="browser", backend="wasm", threads=2, agent="Browser/1"),
        device=p.Device(
            cores=8,
            memory_mb=8000,
            connection="4g",
            battery=0.5,
            charging=False,
            time_zone="Europe/Paris",
            data_saver=True,
        ),
        cached=(DIGEST,),
        limits=p.Limits(cpu_share=0.5, threads=2),
    ),
    "ready": p.Ready(
        digest=DIGEST,
        load_s=1.25,
        calibration=(p.Speed(batch_size=8, tokens_per_s=2400.0),),
        answers=(p.Answer(output=b"\x00\x01", evidence=bytes(8)),),
    ),
    "capacity": p.Capacity(
        slots=36, state="throttled", reason="This device is busy.", limits=p.Limits()
    ),
    "results": p.Results(
        items=(
            p.Result(
                attempt_id="a-1", output=b"out", evidence=bytes(4), compute_s=0.125, tokens=12
            ),
        )
    ),
    "revealed": p.Revealed(
        items=(
            p.Shown(attempt_id="a-1", evidence=bytes(4)),
            p.Shown(attempt_id="a-2", evidence=None),
        )
    ),
    "delta": p.Delta(attempt_id="a-1", seq=3, text="and so"),
    "failed": p.Failed(
        attempt_id="a-1", digest=DIGEST, blame="input", code="too_long", message="Too long."
    ),
    "pong": p.Pong(n=7, busy_s=0.25),
    "bye": p.Bye(reason="the volunteer stopped"),
    "welcome": p.Welcome(version=1, node_id="node_1", ticket="t-2", recipes=(_RECIPE,)),
    "refused": p.Refused(reason="Full.", retry_after_s=30.0),
    "load": p.Load(recipe=_RECIPE, challenge=(_TASK,)),
    "unload": p.Unload(digest=DIGEST),
    "jobs": p.Jobs(
        items=(
            p.JobItem(
                attempt_id="a-1",
                digest=DIGEST,
                lease_s=2.5,
                tokens=12,
                input="A question.",
                params={"temperature": 0.5, "name": "x"},
                isolated=True,
            ),
        )
    ),
    "reveal": p.Reveal(attempt_ids=("a-1", "a-2")),
    "cancel": p.Cancel(attempt_ids=("a-1", "a-2")),
    "drain": p.Drain(reason="restarting"),
    "notice": p.Notice(text="Thank you."),
    "ping": p.Ping(n=7),
}


def decode(data: bytes, kind: type[p.Frame]) -> p.Frame:
    """Decode on the side that ``kind`` is sent to."""
    if kind in NODE_FRAMES:
        return p.decode_from_node(data)
    return p.decode_from_orchestrator(data)


def frames(kinds: tuple[type[p.Frame], ...]) -> st.SearchStrategy[p.Frame]:
    """Return a strategy of valid frames of ``kinds``."""
    return st.one_of([_of(msgspec.inspect.type_info(kind)) for kind in kinds])


def _of(info: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a type as `msgspec.inspect` describes it, its limits included."""
    i = msgspec.inspect
    match info:
        case i.StructType():
            fields = {
                field.name: _of(field.type)
                if field.required
                else st.one_of(st.just(_default(field)), _of(field.type))
                for field in info.fields
            }
            return st.builds(info.cls, **fields)
        case i.StrType():
            if info.pattern:
                return st.text("0123456789abcdef", min_size=64, max_size=64)
            most = min(info.max_length or 40, 40)
            alphabet = st.characters(codec="utf-8")
            return st.text(alphabet, min_size=info.min_length or 0, max_size=most)
        case i.BytesType():
            return st.binary(max_size=min(info.max_length or 100, 100))
        case i.BoolType():
            return st.booleans()
        case i.NoneType():
            return st.none()
        case i.LiteralType():
            return st.sampled_from(info.values)
        case i.IntType():
            low, high = info.ge if info.ge is not None else -(2**63), info.le or 2**63 - 1
            return st.integers(low, high)
        case i.FloatType():
            least = info.ge if info.ge is not None else info.gt
            return st.floats(least, info.le, exclude_min=info.gt is not None, allow_nan=False)
        case i.UnionType():
            return st.one_of([_of(kind) for kind in info.types])
        case i.VarTupleType():
            most = min(info.max_length or 4, 4)
            items = st.lists(_of(info.item_type), min_size=info.min_length or 0, max_size=most)
            return items.map(tuple)
        case i.DictType():
            return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=4)
        case i.Metadata():
            return _of(info.type)
    raise NotImplementedError(info)


def _default(field: Any) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default
