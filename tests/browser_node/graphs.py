"""Small ONNX models."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.browser_node.tiny import WORDS


def head_of(weights: np.ndarray) -> bytes:
    """Return an ONNX head that multiplies vectors by ``weights`` [dimensions, labels]."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["vectors", "weights"], ["scores"])],
        "head",
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", weights.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 20)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return model


def hungry_backbone() -> bytes:
    """Return an ONNX backbone of eight dimensions that takes 64 MB for each "sea" but the first."""
    ints, floats = TensorProto.INT32, TensorProto.FLOAT
    constants: dict[str, np.ndarray] = {
        "sea": np.array(WORDS.index("sea"), np.int32),
        "first": np.array([1], np.int64),
        "none": np.array([0], np.int64),
        "much": np.array([16 << 20], np.int64),
        "eight": np.array([8], np.int64),
        "both": np.array([0, 1], np.int64),
        "only": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["batch"], start=0, end=1),
        helper.make_node("Equal", ["input_ids", "sea"], ["is_sea"]),
        helper.make_node("Cast", ["is_sea"], ["seas"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["seas", "both"], ["all"], keepdims=0),
        helper.make_node("Sub", ["all", "first"], ["more"]),
        helper.make_node("Max", ["more", "none"], ["count"]),
        helper.make_node("Mul", ["count", "much"], ["size"]),
        helper.make_node(
            "ConstantOfShape",
            ["size"],
            ["huge"],
            value=helper.make_tensor("value", floats, [1], [0.0]),
        ),
        helper.make_node("Cos", ["huge"], ["ones"]),
        helper.make_node("ReduceSum", ["ones", "only"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=floats),
        helper.make_node("ReduceMax", ["mask"], ["one"], keepdims=0),
        helper.make_node("Add", ["sum", "one"], ["value"]),
        helper.make_node("Concat", ["batch", "eight"], ["shape"], axis=0),
        helper.make_node("Expand", ["value", "shape"], ["vectors"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hungry",
        [
            helper.make_tensor_value_info(name, ints, ["n", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("vectors", floats, ["n", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return model
