"""Loading of ONNX networks from bytes, run by onnxruntime on the CPU."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from core.errors import InputError

# Field numbers of ONNX's protocol buffers (onnx.proto3).
MODEL_GRAPH, GRAPH_NODE, GRAPH_WEIGHT, GRAPH_INPUT = 7, 1, 5, 11
NODE_INPUT, NODE_NAME, VALUE_NAME, WEIGHT_NAME = 1, 3, 1, 8
ERRORS_ONLY = 3  # onnxruntime's log level; its warnings concern the file's export


class Part(NamedTuple):
    """A field of a protocol buffer: its `number`, all its bytes, `whole`, and the `content` if it is
    length-delimited."""

    number: int
    whole: bytes
    content: bytes | None


def open_session(content: bytes, where: str) -> Any:
    """Open an `onnxruntime.InferenceSession` with one thread. Raises InputError if the content is no ONNX
    network or onnxruntime is not installed; `where` names its origin."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise InputError(f"{where}: ONNX networks need onnxruntime: pip install -e '.[metrics]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # unpacks quantised weights once instead of at every run
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    faults = (
        state.Fail,
        state.InvalidProtobuf,
        state.InvalidGraph,
        state.InvalidArgument,
        state.NotImplemented,
    )
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except faults as error:
        raise InputError(f"{where} is no ONNX network that onnxruntime runs: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n", 1)[0]


def only_true_inputs(model: bytes) -> bytes:
    """Remove from a model's graph the inputs that are weights or that no node uses.

    The OpenCV Zoo's block-quantised exports still list the weights that were replaced, and onnxruntime then
    requires them as inputs.
    """
    return b"".join(
        _delimited(MODEL_GRAPH, _only_true(part.content or b"")) if part.number == MODEL_GRAPH else part.whole
        for part in parts(model)
    )


def _only_true(graph: bytes) -> bytes:
    found = list(parts(graph))
    nodes = [part.content or b"" for part in found if part.number == GRAPH_NODE]
    used = {field.content for node in nodes for field in parts(node) if field.number == NODE_INPUT}
    weights = {_text(part.content or b"", WEIGHT_NAME) for part in found if part.number == GRAPH_WEIGHT}
    return b"".join(
        part.whole
        for part in found
        if part.number != GRAPH_INPUT or _text(part.content or b"", VALUE_NAME) in used - weights
    )


def node_names(model: bytes) -> list[str]:
    """The names of a model's nodes, in order. Raises ValueError if the bytes are no protocol buffer."""
    graphs = [part.content or b"" for part in parts(model) if part.number == MODEL_GRAPH]
    nodes = [part.content or b"" for graph in graphs for part in parts(graph) if part.number == GRAPH_NODE]
    return [_text(node, NODE_NAME).decode(errors="replace") for node in nodes]


def _text(message: bytes, number: int) -> bytes:
    return next((part.content or b"" for part in parts(message) if part.number == number), b"")


def parts(message: bytes) -> Iterator[Part]:
    """Iterate over the fields of a protocol buffer. Raises ValueError if the bytes are none."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        content = None
        kind = key & 7
        if kind == 0:
            _, place = _varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, place = _varint(message, place)
            content, place = message[place : place + length], place + length
        else:
            raise ValueError(f"no protocol buffer: wire type {kind}")
        if place > len(message):
            raise ValueError("truncated protocol buffer")
        yield Part(key >> 3, message[start:place], content)


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("truncated protocol buffer")


def _delimited(number: int, content: bytes) -> bytes:
    head = bytearray([number << 3 | 2])
    length = len(content)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + content
