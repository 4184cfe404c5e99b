"""Full-size networks with random weights, and ways to prune them, for timing and for runtime tests.

ResNet-50, MobileNetV2 and a BERT encoder are written down here; the nine classification graphs
that ship with the ``onnx`` package (``light``) get their weights materialised. Weights are random
(He et al., 2015), so activations keep their scale through the network. Everything is seeded: the
same call gives the same bytes.

    python benchmarks/networks.py resnet50 out.onnx --prune u90
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]

LIGHT_NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


class Builder:
    """Collects nodes and initializers; every method returns the name of the value it made."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic] | float) -> str:
        """Add an initializer; python floats become float32 scalars."""
        array = np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def he(self, shape: tuple[int, ...], fan_in: float) -> str:
        """Add a He-random weight: normal with variance 2 / fan_in."""
        values = self.rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
        return self.constant(values.astype(np.float32))

    def small(self, size: int) -> str:
        """Add a bias vector of small random numbers."""
        return self.constant((self.rng.standard_normal(size) * 0.05).astype(np.float32))

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output."""
        out = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def conv(
        self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1
    ) -> str:
        """Add a convolution with "same" padding and a bias; ``channels`` is (in, out)."""
        inputs, outputs = channels
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.he(shape, inputs // groups * kernel * kernel)
        return self.node(
            "Conv",
            x,
            weight,
            self.small(outputs),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def classifier(self, x: str, features: int, classes: int = 1000) -> str:
        """Add global pooling and a fully connected layer."""
        pooled = self.node("GlobalAveragePool", x)
        flat = self.node("Flatten", pooled, axis=1)
        weight = self.he((classes, features), features / 2)
        return self.node("Gemm", flat, weight, self.small(classes), transB=1)

    def model(
        self, name: str, shape: list[int | str], output: str, out_shape: list[int | str]
    ) -> onnx.ModelProto:
        """Finish: one input called ``input``, one output."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, out_shape)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        return model


def resnet50(width: float = 1.0, size: int | str = 224, batch: int | str = 1) -> onnx.ModelProto:
    """ResNet-50 v1.5 (stride in the 3x3), normalisation folded (He et al., 2016)."""
    b = Builder()

    def channels(n: int) -> int:
        return int(n * width)

    x = b.node("Relu", b.conv("input", (3, channels(64)), 7, 2))
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = channels(64)
    for base, blocks, first_stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        inner, outer = channels(base), 4 * channels(base)
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = b.node("Relu", b.conv(x, (inputs, inner), 1))
            y = b.node("Relu", b.conv(y, (inner, inner), 3, stride))
            y = b.conv(y, (inner, outer), 1)
            shortcut = b.conv(x, (inputs, outer), 1, stride) if block == 0 else x
            x = b.node("Relu", b.node("Add", y, shortcut))
            inputs = outer
    return b.model("resnet50", [batch, 3, size, size], b.classifier(x, inputs), [batch, 1000])


def mobilenet_v2(size: int | str = 224, batch: int | str = 1) -> onnx.ModelProto:
    """MobileNetV2 1.0, normalisation folded (Sandler et al., 2018)."""
    b = Builder()
    low, high = b.constant(0.0), b.constant(6.0)

    def relu6(x: str) -> str:
        return b.node("Clip", x, low, high)

    x = relu6(b.conv("input", (3, 32), 3, 2))
    inputs = 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    for expand, outputs, repeats, first in [*table, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(repeats):
            stride, hidden, y = (first if i == 0 else 1), inputs * expand, x
            if expand != 1:
                y = relu6(b.conv(y, (inputs, hidden), 1))
            y = relu6(b.conv(y, (hidden, hidden), 3, stride, groups=hidden))
            y = b.conv(y, (hidden, outputs), 1)
            x = b.node("Add", x, y) if stride == 1 and inputs == outputs else y
            inputs = outputs
    x = relu6(b.conv(x, (inputs, 1280), 1))
    return b.model("mobilenet_v2", [batch, 3, size, size], b.classifier(x, 1280), [batch, 1000])


def bert(
    layers: int = 4, hidden: int = 768, inner: int = 3072, tokens: int = 128, heads: int = 12
) -> onnx.ModelProto:
    """BERT encoder layers as exporters spell them: decomposed LayerNorm and GELU (Devlin, 2019)."""
    b = Builder()
    two, eps, half, one = b.constant(2.0), b.constant(1e-5), b.constant(0.5), b.constant(1.0)
    root2, scale = b.constant(float(np.sqrt(2))), b.constant(float(np.sqrt(hidden / heads)))
    split = b.constant(np.array([1, tokens, heads, hidden // heads], np.int64))
    merge = b.constant(np.array([1, tokens, hidden], np.int64))

    def linear(x: str, inputs: int, outputs: int) -> str:
        product = b.node("MatMul", x, b.he((inputs, outputs), 2 * inputs))
        return b.node("Add", product, b.small(outputs))

    def norm(x: str) -> str:
        centred = b.node("Sub", x, b.node("ReduceMean", x, axes=[-1], keepdims=1))
        variance = b.node("ReduceMean", b.node("Pow", centred, two), axes=[-1], keepdims=1)
        unit = b.node("Div", centred, b.node("Sqrt", b.node("Add", variance, eps)))
        gain = b.constant(np.ones(hidden, np.float32))
        return b.node("Add", b.node("Mul", unit, gain), b.small(hidden))

    def gelu(x: str) -> str:
        erf = b.node("Erf", b.node("Div", x, root2))
        return b.node("Mul", b.node("Mul", x, b.node("Add", erf, one)), half)

    def heads_of(x: str, perm: list[int]) -> str:
        return b.node("Transpose", b.node("Reshape", linear(x, hidden, hidden), split), perm=perm)

    x = "input"
    for _ in range(layers):
        query, key = heads_of(x, [0, 2, 1, 3]), heads_of(x, [0, 2, 3, 1])
        value = heads_of(x, [0, 2, 1, 3])
        scores = b.node("Div", b.node("MatMul", query, key), scale)
        mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), value)
        joined = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
        x = norm(b.node("Add", linear(joined, hidden, hidden), x))
        x = norm(b.node("Add", linear(gelu(linear(x, hidden, inner)), inner, hidden), x))
    return b.model("bert", [1, tokens, hidden], x, [1, tokens, hidden])


def llama(
    layers: int = 4,
    hidden: int = 768,
    inner: int = 2048,
    tokens: int = 128,
    heads: int = 12,
    groups: int = 4,
    past: int = 0,
) -> onnx.ModelProto:
    """Decoder layers as exporters spell them (Touvron, 2023): decomposed RMSNorm, rotary embeddings
    by halves, grouped heads, SwiGLU. Keys and values go behind ``past`` earlier ones, if any.

    Inputs: ``input`` [1, tokens, hidden], ``positions`` int64 [1, tokens] and, with a past,
    ``past_k0``, ``past_v0`` ... [1, groups, past, dim]; outputs: the result and the new caches.
    """
    b = Builder()
    dim = hidden // heads
    two, eps, scale = b.constant(2.0), b.constant(1e-5), b.constant(dim**-0.5)
    merge = b.constant(np.array([1, tokens, hidden], np.int64))
    wide = b.constant(np.array([1, heads, past + tokens, dim], np.int64))
    times = b.constant(np.array([1, groups, heads // groups, past + tokens, dim], np.int64))
    zero, middle, end = (b.constant(np.array([i], np.int64)) for i in (0, dim // 2, 2**62))
    last, third = b.constant(np.array([-1], np.int64)), b.constant(np.array([2], np.int64))
    causal = np.tri(tokens, past + tokens, past, dtype=np.float32)
    mask = b.constant(((1 - causal) * -1e4).astype(np.float32)[None, None])
    angles = np.outer(np.arange(past + tokens + 1), 10000.0 ** (-np.arange(dim // 2) / (dim // 2)))
    table = np.concatenate([angles, angles], -1)
    at = b.constant(np.array([1], np.int64))
    cos, sin = (
        b.node("Unsqueeze", b.node("Gather", b.constant(f(table).astype(np.float32)), "positions"),
               at)
        for f in (np.cos, np.sin)
    )  # fmt: skip

    def linear(x: str, inputs: int, outputs: int) -> str:
        return b.node("MatMul", x, b.he((inputs, outputs), 2 * inputs))

    def norm(x: str) -> str:
        mean = b.node("ReduceMean", b.node("Pow", x, two), axes=[-1], keepdims=1)
        inverse = b.node("Reciprocal", b.node("Sqrt", b.node("Add", mean, eps)))
        return b.node("Mul", b.constant(np.ones(hidden, np.float32)), b.node("Mul", x, inverse))

    def cut(x: str, count: int) -> str:
        shape = b.constant(np.array([1, tokens, count, dim], np.int64))
        y = b.node("Reshape", linear(x, hidden, count * dim), shape)
        return b.node("Transpose", y, perm=[0, 2, 1, 3])

    def rotated(x: str) -> str:
        low = b.node("Slice", x, zero, middle, last)
        high = b.node("Neg", b.node("Slice", x, middle, end, last))
        turned = b.node("Concat", high, low, axis=-1)
        return b.node("Add", b.node("Mul", x, cos), b.node("Mul", turned, sin))

    def repeated(x: str) -> str:
        return b.node("Reshape", b.node("Expand", b.node("Unsqueeze", x, third), times), wide)

    x, caches, results = "input", {}, []
    for layer in range(layers):
        inside = norm(x)
        query, key, value = (
            rotated(cut(inside, heads)),
            rotated(cut(inside, groups)),
            cut(inside, groups),
        )
        if past:
            kept = []
            for name, new in ((f"past_k{layer}", key), (f"past_v{layer}", value)):
                caches[name] = [1, groups, past, dim]
                kept.append(b.node("Concat", name, new, axis=2))
            key, value = kept
            results += kept
        scores = b.node("MatMul", query, b.node("Transpose", repeated(key), perm=[0, 1, 3, 2]))
        scores = b.node("Add", b.node("Mul", scores, scale), mask)
        mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), repeated(value))
        joined = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
        x = b.node("Add", x, linear(joined, hidden, hidden))
        inside = norm(x)
        gate, up = linear(inside, hidden, inner), linear(inside, hidden, inner)
        gated = b.node("Mul", b.node("Mul", gate, b.node("Sigmoid", gate)), up)
        x = b.node("Add", x, linear(gated, inner, hidden))
    model = b.model("llama", [1, tokens, hidden], x, [1, tokens, hidden])
    info = helper.make_tensor_value_info
    model.graph.input.append(info("positions", TensorProto.INT64, [1, tokens]))
    for name, shape in caches.items():
        model.graph.input.append(info(name, TensorProto.FLOAT, shape))
    for name in results:
        shape = [1, groups, past + tokens, dim]
        model.graph.output.append(info(name, TensorProto.FLOAT, shape))
    return model


def llama_step() -> onnx.ModelProto:
    """One token behind 127 earlier ones."""
    return llama(tokens=1, past=127)


def light(name: str) -> onnx.ModelProto:
    """One of the graphs of the onnx package, with random weights instead of ConstantOfShape."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{name}.onnx")
    graph = model.graph
    rng = np.random.default_rng(0)
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    shapes = {
        n.output[0]: tuple(int(d) for d in values[n.input[0]])
        for n in graph.node
        if n.op_type == "ConstantOfShape"
    }
    role: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        for i, x in enumerate(node.input):
            role.setdefault(x, (node.op_type, i))
    made: list[onnx.TensorProto] = []
    for key, shape in shapes.items():
        op, slot = role.get(key, ("", 0))
        if op in ("Conv", "Gemm") and slot == 1:
            fan = float(np.prod(shape[1:]))
            data = rng.standard_normal(shape) * np.sqrt(2.0 / fan)
        elif op == "BatchNormalization" and slot in (1, 4):
            data = rng.uniform(0.5, 1.5, shape)
        else:
            data = rng.standard_normal(shape) * 0.05
        made.append(numpy_helper.from_array(data.astype(np.float32), key))
    # The graphs list weights as inputs too; as inputs they would not be constant.
    kept = [i for i in graph.input if i.name not in values]
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    used = {x for n in nodes for x in n.input}
    rest = [t for t in graph.initializer if t.name in used]
    del graph.node[:], graph.input[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.input.extend(kept)
    graph.initializer.extend([*rest, *(t for t in made if t.name in used)])
    model.ir_version = max(model.ir_version, 4)
    return model


def largest(score: Array, sparsity: float) -> NDArray[np.bool_]:
    """Keep-mask without the ``sparsity`` share of smallest scores; ties go by position."""
    keep = np.ones(score.size, np.bool_)
    keep[np.argsort(score.ravel(), kind="stable")[: round(sparsity * score.size)]] = False
    return keep.reshape(score.shape)


def prune_matrix(weight: Array, kind: str) -> Array:
    """Zero the smallest entries of ``weight`` [outputs, inputs, ...] and rescale to keep its norm.

    ``kind``: ``u90`` (90 % of single weights), ``2:4`` / ``1:4`` (of every four consecutive
    inputs), ``b4x1_90`` (90 % of groups of four consecutive outputs). A pattern that does not fit
    the shape leaves the weight as it is.
    """
    flat = weight.reshape(weight.shape[0], -1)
    size = np.abs(flat)
    keep: NDArray[np.bool_]
    if kind.startswith("u"):
        keep = largest(size, int(kind[1:]) / 100)
    elif ":" in kind:
        n, m = (int(v) for v in kind.split(":"))
        if weight.ndim < 2 or weight.shape[1] % m:
            return weight
        groups = np.abs(weight).reshape(weight.shape[0], weight.shape[1] // m, m, -1)
        rank = np.argsort(np.argsort(-groups, axis=2, kind="stable"), axis=2, kind="stable")
        keep = (rank < n).reshape(flat.shape)
    else:
        rows, share = int(kind[1 : kind.index("x")]), int(kind.split("_")[1]) / 100
        if flat.shape[0] % rows:
            return weight
        score = (flat.reshape(flat.shape[0] // rows, rows, -1) ** 2).sum(1)
        keep = np.repeat(largest(score, share), rows, axis=0)
    out = flat * keep
    norm = float(np.linalg.norm(out))
    if norm > 0:
        out *= float(np.linalg.norm(flat)) / norm
    result: Array = out.reshape(weight.shape).astype(np.float32)
    return result


def dequantised(graph: onnx.GraphProto, name: str) -> tuple[onnx.TensorProto, Array, Array] | None:
    """The integers behind a dequantised weight, their zero points and scales broadcast to them."""
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if name not in node.output or node.op_type != "DequantizeLinear":
            continue
        if any(i not in tensors for i in node.input):
            return None
        held = tensors[node.input[0]]
        q = numpy_helper.to_array(held)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)

        def spread(values: Array, q: Array = q, axis: int = axis) -> Array:
            shape = [1] * q.ndim
            if values.size > 1:
                shape[axis] = values.size
            return np.broadcast_to(values.reshape(shape), q.shape)

        zero: Array = np.zeros(1, q.dtype)
        if len(node.input) > 2:
            zero = numpy_helper.to_array(tensors[node.input[2]])
        return held, spread(zero), spread(numpy_helper.to_array(tensors[node.input[1]]))
    return None


def prunable(node: onnx.NodeProto) -> dict[str, bool]:
    """Weights of a node by name, and whether their outputs are columns (the second axis)."""
    attributes = {a.name: a for a in node.attribute}
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return dict.fromkeys(node.input[1:3], False)
    if node.op_type in ("Conv", "ConvTranspose"):
        return {node.input[1]: node.op_type == "ConvTranspose"}
    if node.op_type == "Gemm":
        return {node.input[1]: not ("transB" in attributes and attributes["transB"].i)}
    return {node.input[1]: True} if node.op_type == "MatMul" else {}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, inside it, bodies of If, Loop and Scan."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Constant tensors of a graph by name: initializers, and what Constant nodes hold."""
    held = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            held[node.output[0]] = node.attribute[0].t
    return held


def prune(
    model: onnx.ModelProto, kind: str, skip_first: bool = True, skip_depthwise: bool = True
) -> onnx.ModelProto:
    """Prune the weights of convolutions, matrix products and recurrent layers; ``dense``: a copy.

    Wherever they are: among the initializers or in Constant nodes, in bodies of If and Loop too.

    The first convolution and depth-wise ones stay dense unless asked otherwise, as in practice.
    Quantised weights (Q/DQ) become their zero point; what stays is not rescaled.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    if kind == "dense":
        return out
    inside = list(graphs(out.graph))
    tensors = {name: tensor for g in inside for name, tensor in constants(g).items()}
    # Weights that were stored without the axis of directions, or with gates in another order.
    moves = ("Unsqueeze", "Concat", "Slice", "Identity")
    behind = {n.output[0]: n.input[0] for g in inside for n in g.node if n.op_type in moves}
    done: set[str] = set()
    first = skip_first
    for node in (n for g in inside for n in g.node):
        group = 1
        if node.op_type == "Conv":
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            if first:
                first = False
                continue
        for stated, by_columns in prunable(node).items():
            name = stated
            while name in behind and name not in tensors:
                name = behind[name]
            integers = None if name in tensors else dequantised(out.graph, name)
            if (name not in tensors and integers is None) or name in done:
                continue
            shape = tensors[name].dims if integers is None else integers[0].dims
            if skip_depthwise and group > 1 and shape[1] == 1:
                continue
            done.add(name)
            if integers is not None:
                held, zero, scale = integers
                q = numpy_helper.to_array(held)
                weight = ((q.astype(np.int32) - zero.astype(np.int32)) * scale).astype(np.float32)
            else:
                weight = numpy_helper.to_array(tensors[name])
            if weight.ndim < 2 or weight.dtype != np.float32:
                continue
            if by_columns and (weight.ndim == 2 or node.op_type == "ConvTranspose"):
                turned = np.ascontiguousarray(weight.swapaxes(0, 1))
                pruned = np.ascontiguousarray(prune_matrix(turned, kind).swapaxes(0, 1))
            elif node.op_type in ("LSTM", "GRU", "RNN"):
                flat = weight.reshape(-1, weight.shape[-1])
                pruned = prune_matrix(flat, kind).reshape(weight.shape)
            else:
                pruned = prune_matrix(weight, kind)
            if integers is not None:
                kept = np.where(pruned == 0, zero, q).astype(q.dtype)
                held.CopyFrom(numpy_helper.from_array(kept, held.name))
                continue
            tensors[name].CopyFrom(numpy_helper.from_array(pruned, name))
    return out


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "bert": bert,
    "llama": llama,
    "llama_step": llama_step,
    **{f"light_{n}": (lambda n=n: light(n)) for n in LIGHT_NAMES},  # type: ignore[misc]
}


def main() -> None:
    """Write one network to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("output")
    parser.add_argument("--prune", default="dense", help="dense, u90, 2:4, b4x1_90 ...")
    arguments = parser.parse_args()
    onnx.save(prune(NETWORKS[arguments.network](), arguments.prune), arguments.output)


if __name__ == "__main__":
    main()
