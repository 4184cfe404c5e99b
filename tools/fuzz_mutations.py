"""Seeds and mutations for ``fuzz_packed.py``: small packed and compiled models, and damage."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FORMATS = ("csr", "csc", "bsr", "bitmap", "nm", "eie")
SMALL = (0, 1, -1, 2, 3, 127, 255, 256, 65535)
LARGE = (1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 62, -(1 << 63))
ODD = SMALL + LARGE

Rng = np.random.Generator


def network() -> onnx.ModelProto:
    """Convolutions with and without groups, a matrix from either side, Gemm, recurrent layers."""
    rng = np.random.default_rng(0)
    constants: list[onnx.TensorProto] = []

    def weight(*shape: int) -> str:
        value = rng.standard_normal(shape).astype(np.float32)
        groups = value.reshape(shape[0], shape[1] // 4, 4, -1)
        groups[:, :, 1::2] = 0
        constants.append(numpy_helper.from_array(value, f"w{len(constants)}"))
        return str(constants[-1].name)

    def vector(size: int) -> str:
        value = rng.standard_normal(size).astype(np.float32)
        constants.append(numpy_helper.from_array(value, f"w{len(constants)}"))
        return str(constants[-1].name)

    def layer(gates: int, hidden: int, inputs: int, directions: int) -> list[str]:
        shapes = ((gates * hidden, inputs), (gates * hidden, hidden), (2 * gates * hidden,))
        for shape in shapes:
            value = rng.standard_normal((directions, *shape)).astype(np.float32)
            value[..., 1::2] = 0
            constants.append(numpy_helper.from_array(value, f"w{len(constants)}"))
        return [str(c.name) for c in constants[-3:]]

    node = helper.make_node
    both = {"direction": "bidirectional", "linear_before_reset": 1}
    first = {"pads": [1, 0, 1, 2], "strides": [2, 1]}
    second = {"group": 2, "pads": [2] * 4, "dilations": [2, 2]}
    nodes = [
        node("Conv", ["x", weight(16, 8, 3, 3), vector(16)], ["a"], "c1", **first),
        node("Relu", ["a"], ["b"], "r1"),
        node("Conv", ["b", weight(8, 8, 3, 3)], ["c"], "c2", **second),
        node("GlobalAveragePool", ["c"], ["d"], "pool"),
        node("Flatten", ["d"], ["e"], "flat"),
        node("Gemm", ["e", weight(12, 8), vector(12)], ["f"], "g1", transB=1, alpha=0.5, beta=2.0),
        node("MatMul", ["f", weight(12, 16)], ["y"], "m1"),
        node("MatMul", [weight(8, 16), "t"], ["z"], "m2"),
        node("LSTM", ["s", *layer(4, 9, 8, 1), "lengths"], ["", "h", "cell"], "l1", hidden_size=9),
        node("GRU", ["s", *layer(3, 5, 8, 2)], ["u"], "l2", hidden_size=5, **both),
    ]  # fmt: skip
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "seed",
        [
            helper.make_tensor_value_info("x", floats, ["n", 8, 9, 7]),
            helper.make_tensor_value_info("t", floats, [16, "k"]),
            helper.make_tensor_value_info("s", floats, ["steps", "batch", 8]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        ],
        [helper.make_tensor_value_info(o, floats, None) for o in ("y", "z", "h", "cell", "u")],
        constants,
    )
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def seeds() -> list[onnx.ModelProto]:
    """The network packed in every format, with SparseDecode, and compiled."""
    import onnx_ir as ir
    import onnxruntime as ort

    from onnxprune import formats, runtime

    found = []
    for form in FORMATS:
        for others in (False, True):
            held = ir.from_proto(network())
            formats.convert_model(held, form, others=others, min_saving=-float("inf"))
            found.append(ir.to_proto(held))
    with tempfile.TemporaryDirectory(prefix="onnxprune-fuzz-") as folder:
        for number, regions in enumerate((True, False)):
            path = Path(folder) / f"{number}.onnx"
            options = ort.SessionOptions()
            options.log_severity_level = 4
            for key, value in (("enable", "1"), ("embed_mode", "1"), ("file_path", str(path))):
                options.add_session_config_entry(f"ep.context_{key}", value)
            runtime.session(network(), 1, force=True, regions=regions, session_options=options)
            found.append(onnx.load(path))
    return found


def mutated(model: onnx.ModelProto, rng: Rng, others: list[bytes]) -> onnx.ModelProto:
    """A copy with one to three things changed."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    blobs = [t for t in out.graph.initializer if t.data_type == TensorProto.UINT8]
    own = [n for n in out.graph.node if n.domain in ("ai.onnxprune", "com.microsoft")]
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(0, 10))
        if kind < 7 and blobs:
            tensor = blobs[int(rng.integers(len(blobs)))]
            put(tensor, changed_blob(numpy_helper.to_array(tensor).tobytes(), rng, others))
        elif kind < 7 and own:
            change_context(own[int(rng.integers(len(own)))], rng, others)
        elif kind < 9 and own:
            change_attribute(own[int(rng.integers(len(own)))], rng)
        elif own:
            change_inputs(own[int(rng.integers(len(own)))], rng)
    return out


def changed(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """Bytes flipped or overwritten by odd numbers (most often in the header), cut, grown, mixed."""
    body = bytearray(data)
    limit = len(body) if rng.random() < 0.4 else min(len(body), 256)
    way = int(rng.integers(0, 8))
    if way == 0:
        return bytes(body[: int(rng.integers(0, len(body) + 1))])
    if way == 1:
        return bytes(body) + rng.bytes(int(rng.integers(1, 80)))
    if way == 2 and others:
        other = others[int(rng.integers(len(others)))]
        cut = int(rng.integers(0, len(body) + 1))
        return bytes(body[:cut]) + other[cut:]
    for _ in range(int(rng.integers(1, 5))):
        if limit == 0:
            break
        if rng.random() < 0.5:
            body[int(rng.integers(0, limit))] = int(rng.integers(0, 256))
            continue
        size = int(rng.choice([1, 2, 4, 8]))
        place = int(rng.integers(0, max(1, limit - size))) // size * size
        value = int(ODD[int(rng.integers(len(ODD)))]) % (1 << (8 * size))
        body[place : place + size] = value.to_bytes(size, "little")
    return bytes(body)


def changed_blob(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """Change a packed weight; most of the time its length and checksum are right again."""
    if rng.random() < 0.25:
        return changed(data, rng, others)
    body = bytearray(changed(data[8:], rng, [o[8:] for o in others]))
    if len(body) >= 16 and rng.random() < 0.5:
        body[8:16] = (len(body) + 8).to_bytes(8, "little")
    return data[:4] + zlib.crc32(body).to_bytes(4, "little") + bytes(body)


def put(tensor: onnx.TensorProto, data: bytes) -> None:
    """Make ``tensor`` hold ``data``; the shape follows."""
    tensor.CopyFrom(numpy_helper.from_array(np.frombuffer(data, np.uint8), tensor.name))


def change_context(node: onnx.NodeProto, rng: Rng, others: list[bytes]) -> None:
    """Change a compiled program; half of the time its checksum is right again."""
    attribute = next((a for a in node.attribute if a.name == "ep_cache_context"), None)
    if attribute is None:
        return
    data = attribute.s
    if rng.random() < 0.5:
        body = changed(data[12:], rng, others)
        attribute.s = data[:8] + zlib.crc32(body).to_bytes(4, "little") + body
    else:
        attribute.s = changed(data, rng, others)


def change_attribute(node: onnx.NodeProto, rng: Rng) -> None:
    """Replace numbers of an attribute, its type, or drop it."""
    if not node.attribute:
        return
    attribute = node.attribute[int(rng.integers(len(node.attribute)))]
    odd = int(ODD[int(rng.integers(len(ODD)))])
    way = int(rng.integers(0, 5))
    if way == 0:
        node.attribute.remove(attribute)
    elif attribute.type == onnx.AttributeProto.INTS and attribute.ints and way < 4:
        values = list(attribute.ints)
        values[int(rng.integers(len(values)))] = odd
        if way == 1:
            values = values[:-1] if rng.random() < 0.5 else [*values, odd]
        del attribute.ints[:]
        attribute.ints.extend(values)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = float(rng.choice([np.nan, np.inf, -1e30, 0.0, 1e-40]))
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = odd


def change_inputs(node: onnx.NodeProto, rng: Rng) -> None:
    """Drop, repeat, empty or swap inputs."""
    names = list(node.input)
    if not names:
        return
    way, place = int(rng.integers(0, 4)), int(rng.integers(len(names)))
    if way == 0:
        del names[place]
    elif way == 1:
        names.append(names[place])
    elif way == 2:
        names[place] = ""
    else:
        names.reverse()
    del node.input[:]
    node.input.extend(names)
