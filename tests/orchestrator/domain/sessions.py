"""A node's session in the orchestrator, welcomed, for tests of what comes then."""

from __future__ import annotations

import random

from browser_node import protocol as p
from browser_node.agreement import Verdict
from browser_node.protocol import ModelDigest, NodeId
from orchestrator.domain.node_session import Admission, NodeSession
from orchestrator.domain.references import References
from tests.arena import manifest

SUMMARY, EMBEDDING = ModelDigest("5" * 64), ModelDigest("e" * 64)
NODE = NodeId("tab")


def serving() -> NodeSession:
    """Return the session of a node that was welcomed."""
    session = NodeSession(
        trusted=False,
        admit=lambda _: Admission(NODE, "ticket"),
        models={SUMMARY: manifest("extractive-summary"), EMBEDDING: manifest("embeddings")},
        references=References(random.Random(1)),
        agree=lambda *_: Verdict(agrees=True, min_cosine=1.0, reason=""),
    )
    runtime = p.Runtime(kind="native", backend="onnxruntime", threads=1)
    hello = p.Hello(versions=(1,), runtime=runtime, device=p.Device(cores=1))
    session.receive(p.encode(hello), now=0.0)
    return session
