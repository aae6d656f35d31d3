"""Recognisers in ONNX files: toy networks, run as ArcFace's and SFace's are."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from metrics import ID
from metrics.faces import Reading
from metrics.onnx_graphs import node_names, only_true_inputs, open_session, parts
from metrics.recognition import ARCFACE_LANDMARKS, OnnxRecogniser, arcface_crop
from portraits.alignment.detection import Face

FLOAT = 1


def varint(value):
    head = []
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def field(number, content):
    """One field of a protocol buffer: an integer, or length-prefixed bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(name, *shape):
    """An input or output of a graph; each dimension is a number or a name."""
    dims = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dims)))


def node(kind, name, inputs, output):
    return b"".join(field(1, one) for one in inputs) + field(2, output) + field(3, name) + field(4, kind)


def toy_network(names=("pool", "flat"), size=112, extra=(), batch="batch"):
    """An ONNX file whose embedding is the mean of each colour channel."""
    nodes = [
        node("GlobalAveragePool", names[0], ["data"], "means"),
        node("Flatten", names[1], ["means"], "embedding"),
    ]
    inputs = [value("data", batch, 3, size, size), *(value(name, 4, 4) for name in extra)]
    graph = b"".join(field(1, one) for one in nodes) + field(2, "toy")
    graph += b"".join(field(11, one) for one in inputs) + field(12, value("embedding", batch, 3))
    return field(1, 8) + field(8, field(1, "") + field(2, 13)) + field(7, graph)


def reading(colour):
    """A face of one colour, whose landmarks are ArcFace's, scaled and shifted."""
    image = np.broadcast_to(np.array(colour, np.uint8), (256, 256, 3)).copy()
    landmarks = ARCFACE_LANDMARKS * 1.2 + (40, 30)
    return Reading(image, Face(np.array([60.0, 60.0, 180.0, 200.0]), landmarks, 1.0))


def test_onnx_file_gives_an_id_metric(tmp_path):
    path = tmp_path / "toy_r50.onnx"
    path.write_bytes(toy_network())
    metric = ID(f"arcface={path}")
    assert metric.label == "ID[arcface-toy_r50]"
    red, grey = reading((255, 0, 0)), reading((192, 192, 192))
    found = metric.embed([red, grey])
    torch.testing.assert_close(found[0], torch.tensor([1.0, -1.0, -1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        metric.compare([red, red, None], [red, grey, red])[:2, 0].isnan(), torch.zeros(2) > 0
    )
    assert float(metric.compare([red], [red])) == pytest.approx(1)


def test_network_with_built_in_normalisation_gets_raw_levels(tmp_path):
    path = tmp_path / "r100.onnx"
    path.write_bytes(toy_network(names=("_minusscalar0", "_mulscalar0")))
    found = ID(f"arcface={path}").embed([reading((255, 0, 10))])
    torch.testing.assert_close(found[0], torch.tensor([255.0, 0.0, 10.0]), atol=0.1, rtol=0)


def test_unused_graph_inputs_are_removed():
    model = toy_network(extra=("old_weight",))
    assert len(open_session(model, "toy").get_inputs()) == 2
    (only,) = open_session(only_true_inputs(model), "toy").get_inputs()
    assert only.name == "data"
    assert node_names(model) == ["pool", "flat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"something else", "is no ONNX"),
        (toy_network(size=96), r"is no face recogniser.*\['batch', 3, 96, 96\]|\('batch', 3, 96, 96\)"),
        (toy_network(extra=("second",)), "has 2 inputs"),
        (toy_network()[:-4], "is no ONNX"),
    ],
)
def test_files_that_are_no_recogniser_are_refused(tmp_path, content, message):
    path = tmp_path / "r50.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        ID(f"arcface={path}")


def test_truncated_protocol_buffer_is_refused():
    with pytest.raises(ValueError, match="truncated"):
        list(parts(toy_network()[:-1]))


def test_arcface_crop_puts_landmarks_in_place():
    image = np.zeros((300, 300, 3), np.uint8)
    angle = 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = 1.5 * ARCFACE_LANDMARKS @ turn.T + (90, 20)
    for x, y in landmarks.round().astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    crop = arcface_crop(Reading(image, Face(np.zeros(4), landmarks, 1.0)))
    for x, y in ARCFACE_LANDMARKS.round().astype(int):
        assert crop[y, x].min() > 200
    assert (crop > 127).mean() < 0.02


def test_fixed_batch_size_of_one_is_supported():
    fixed = toy_network(batch=1)
    found = OnnxRecogniser(fixed, "toy", 0.0, 255.0)([reading((255, 0, 0)), reading((0, 255, 0))])
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), atol=1e-3, rtol=0)
