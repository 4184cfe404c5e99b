"""Where a layer's data operand comes from, how it unfolds, and where its bias is.

Everything an operator's geometry means for statistics is here: a layer becomes a matrix
``W [G, R, d]`` that multiplies columns ``X [G, d, N]``. Groups are those of a convolution, or the
directions of a recurrent layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.calibration.windows import Window, conv_window
from onnxprune.planning.layers import Layer
from onnxprune.rules.analysis import STANDARD, Analyzer

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
CONVS = ("Conv", "ConvTranspose")
RECURRENT = ("LSTM", "GRU", "RNN")
#: Operators of onnxruntime's own optimizer, and what their weights do first.
FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "Attention": "MatMul"}
#: Bytes of the second moments of a layer's inputs. Solving it holds about a dozen copies: 9,216
#: inputs took 9.6 GB and did not end in minutes.
MOST_BYTES = 1 << 28
#: What may lie between a weight and its layer.
BEFORE = ("Transpose", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def kind_of(node: ir.Node) -> str:
    """The standard operator that tells how a node multiplies by its weight; else its own type."""
    fused = node.domain == "com.microsoft" and FUSED.get(node.op_type)
    return fused or (node.op_type if node.domain in STANDARD else f"{node.domain}:{node.op_type}")


@dataclass(frozen=True)
class BiasSite:
    """An input that takes a vector added to every output column.

    Attributes:
        node: the layer's node, or the Add behind it.
        index: which of its inputs; may lie behind the last one given.
        scale: what one unit of the vector adds to the output is ``scale``, and the layer's product
            ``W X`` counts ``factor`` times.
        factor: see ``scale``.
        old: the vector [O] now, zeros where there is none.
        shape: shape the vector is written in.
    """

    node: ir.Node
    index: int
    scale: float
    factor: float
    old: npt.NDArray[np.float64]
    shape: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether other nodes read the vector, too."""
        value = self.node.inputs[self.index] if self.index < len(self.node.inputs) else None
        return value is not None and len(list(value.uses())) > 1

    def moved(self, by: npt.NDArray[np.float64]) -> Array:
        """The vector that adds ``by`` [O], in units of ``W X``, to what it adds now."""
        return (self.old + by * (self.factor / self.scale)).reshape(self.shape)


@dataclass(frozen=True)
class Operand:
    """A layer whose input can be turned into columns.

    Attributes:
        layer: the layer.
        source: name of the data operand.
        bias: where a mean can go; None where the operator has no place for one.
        state: the data operand is not ``source`` but the state that the node makes of it.
    """

    layer: Layer
    source: str
    bias: BiasSite | None
    state: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for layers that see the same columns."""
        node, kind = self.layer.node, kind_of(self.layer.node)
        if kind in CONVS:
            attributes = tuple((n, str(node.attributes[n].value)) for n in sorted(node.attributes))
            return (
                self.source,
                kind,
                self.layer.view_shape[:1],
                self.layer.view_shape[2:],
                attributes,
            )
        if kind in RECURRENT:  # steps that are left out, directions, states
            lengths = node.inputs[4] if len(node.inputs) > 4 else None
            own = self.layer.value.name if self.state else None
            return (self.source, lengths and lengths.name, self.layer.view_shape[0], own)
        return (self.source, self.axis(2))

    def matrix(self, array: Array) -> Array:
        """Return weights, in the layout of the tensor, as [G, R, d]."""
        view = self.layer.view(array)
        return view.reshape(view.shape[0], view.shape[1], -1)

    def unmatrix(self, matrix: Array) -> Array:
        """Inverse of :meth:`matrix`."""
        return self.layer.unview(matrix.reshape(self.layer.view_shape))

    def count(self, array: Array) -> int:
        """Return how many columns a feed's input has."""
        if kind_of(self.layer.node) in CONVS:
            return int(array.shape[0]) * self._window(array).positions
        axis = self.axis(array.ndim)
        return int(array.size // max(array.shape[axis], 1))

    def positions(
        self, array: Array, limit: int, rng: np.random.Generator
    ) -> npt.NDArray[np.int64] | None:
        """Draw which columns of one feed are taken, without replacement; None for all.

        Args:
            array: the operand as the runtime gives it.
            limit: columns wanted.
            rng: for the draw.

        Returns:
            Output positions of a convolution (the same for every sample), rows otherwise.
        """
        if kind_of(self.layer.node) in CONVS:
            total = self._window(array).positions
            wanted = max(1, -(-limit // max(array.shape[0], 1)))
        else:
            total, wanted = self.count(array), limit
        return None if wanted >= total else np.sort(rng.choice(total, wanted, replace=False))

    def columns(self, array: Array, chosen: npt.NDArray[np.int64] | None) -> F32:
        """Return [G, d, N] of one feed at :meth:`positions` (None for all)."""
        if kind_of(self.layer.node) in CONVS:
            return self._window(array).unfold(array, self.layer.view_shape[0], chosen)
        rows = np.moveaxis(array, self.axis(array.ndim), -1)
        rows = rows.reshape(-1, rows.shape[-1])
        rows = rows if chosen is None else rows[chosen]
        columns = np.ascontiguousarray(rows.T.astype(np.float32, copy=False))
        groups, _, size = self.layer.view_shape
        columns = columns.reshape(-1, size, columns.shape[1])
        return columns if len(columns) == groups else np.repeat(columns, groups, axis=0)

    def _window(self, array: Array) -> Window:
        return _window(self.layer, tuple(array.shape[2:]))

    def axis(self, rank: int) -> int:
        """The contracted axis of the data operand."""
        node, kind = self.layer.node, kind_of(self.layer.node)
        if kind in CONVS:
            return 1
        left = _weight_index(node, self.layer) > 0  # data comes first
        if kind == "Gemm":
            turned = node.attributes.get_int("transA" if left else "transB", 0)
            return (0 if turned else 1) if left else (1 if turned else 0)
        return rank - 1 if left else max(rank - 2, 0)


def _weight_index(node: ir.Node, layer: Layer) -> int:
    """Which operand the weight is, possibly behind a Transpose, Reshape or Cast."""
    for index, value in enumerate(node.inputs[:3]):
        while value is not None:
            if value is layer.value:
                return index
            producer = value.producer()
            if producer is None or producer.op_type not in BEFORE:
                break
            value = producer.inputs[0]
    return -1


def _window(layer: Layer, sizes: tuple[int, ...]) -> Window:
    node = layer.node
    kernel = layer.view_shape[3:]
    get = node.attributes.get_ints
    rank = len(sizes)
    strides = list(get("strides", ()) or [1] * rank)
    dilations = list(get("dilations", ()) or [1] * rank)
    pads = list(get("pads", ()) or [0] * (2 * rank))
    auto = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    outputs = []
    transposed = kind_of(node) == "ConvTranspose"
    extra = list(get("output_padding", ()) or [0] * rank)
    shape = get("output_shape", ())
    for axis, (size, span, stride) in enumerate(zip(sizes, spans, strides, strict=True)):
        total = pads[axis] + pads[axis + rank]
        if transposed:
            whole = stride * (size - 1) + extra[axis] + span
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                outputs.append(size * stride)
            else:
                outputs.append(whole - (0 if auto == "VALID" else total))
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            outputs.append(-(-size // stride))
        else:
            outputs.append((size + (0 if auto == "VALID" else total) - span) // stride + 1)
    if transposed and shape:
        wanted = list(shape)[-rank:]
        spare = [
            s * (n - 1) + e + span - w
            for s, n, e, span, w in zip(strides, sizes, extra, spans, wanted, strict=True)
        ]
        lead = [
            max(t, 0) - max(t, 0) // 2 if auto != "SAME_UPPER" else max(t, 0) // 2 for t in spare
        ]
        pads, auto, outputs = [*lead, *lead], "NOTSET", wanted
    return conv_window(
        sizes,
        outputs,
        kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto,
        transposed=transposed,
    )


def find_shared(analyzer: Analyzer, layer: Layer) -> list[Operand] | str:
    """Return the operands of all nodes that share a layer's weight, or why there are none.

    Their outputs' means differ, so that no bias is theirs.
    """
    nodes = readers(layer.value)
    if nodes is None or len(nodes) < 2:
        return "the weight is used once, or by what is not known"
    found: list[Operand] = []
    for node in nodes:
        operand = find_operand(analyzer, replace(layer, node=node), shared=True)
        if isinstance(operand, str):
            return operand
        first = found[0] if found else operand
        same = kind_of(node) == kind_of(nodes[0]) and operand.axis(2) == first.axis(2)
        if kind_of(node) in RECURRENT or not same:
            return "the weight is used in several ways"
        found.append(replace(operand, bias=None))
    return found


def readers(value: ir.Value) -> list[ir.Node] | None:
    """The nodes that read a value, itself or reshaped, in no order; None where it is an output."""
    if value.is_graph_output():
        return None
    found: list[ir.Node] = []
    for user, _ in value.uses():
        behind = readers(user.outputs[0]) if user.op_type in BEFORE else [user]
        if behind is None:
            return None
        found += behind
    return found


def find_operand(analyzer: Analyzer, layer: Layer, *, shared: bool = False) -> Operand | str:
    """Return how statistics of a layer are taken, or why they are not.

    A weight that several nodes share has no input of its own, and a weight with a batch axis, or
    of an operator that is not known here, no columns.

    Args:
        analyzer: of the model.
        layer: whose node multiplies by the weight.
        shared: other nodes may, too.
    """
    node, kind = layer.node, kind_of(layer.node)
    if kind not in (*CONVS, *RECURRENT, "Gemm", "MatMul"):
        return f"{node.op_type}: no statistics are taken of this operator"
    if layer.stored.quantised:
        return "quantised weights keep the values they have"
    groups, _, *inputs = layer.view_shape
    size = math.prod(inputs)
    if groups * size * size * 8 > MOST_BYTES:
        return f"{size} inputs: their second moments would take too much memory"
    if node.graph is not analyzer.graph:
        return "the layer is in the body of another node"
    index = _weight_index(node, layer)
    if index < 0:
        return "the weight is not an operand by itself"
    if not shared and readers(layer.value) != [node]:
        return "the weight is used more than once"
    if kind in CONVS:
        data = node.inputs[0] if index == 1 else None
    elif kind in RECURRENT:
        if node.attributes.get_int("layout", 0):
            return "onnxruntime does not run recurrent layers with the batch first"
        data = node.inputs[0]
    else:
        data = node.inputs[1 - index]
        rank = len(analyzer.dims(operand) or ()) if (operand := node.inputs[index]) else 0
        if rank != 2:
            return f"the weight has {rank} axes"
    if data is None or not data.name or analyzer.is_weight(data):
        return "the data operand is a constant"
    if kind in RECURRENT:
        return Operand(layer, data.name, None, state=index == 2)
    if kind == "Gemm" and index == 0:
        return Operand(layer, data.name, None)
    return Operand(layer, data.name, _bias(analyzer, layer, index))


def _bias(analyzer: Analyzer, layer: Layer, weight: int) -> BiasSite | None:
    node, kind = layer.node, kind_of(layer.node)
    size = layer.view_shape[0] * layer.view_shape[1]
    if kind in CONVS or node.op_type == "Attention":
        return _site(analyzer, node, 2, size, (size,))
    if kind == "Gemm":
        beta = node.attributes.get_float("beta", 1.0)
        alpha = node.attributes.get_float("alpha", 1.0)
        return _site(analyzer, node, 2, size, (size,), beta, alpha)
    output = node.outputs[0]
    uses = list(output.uses())
    if weight != 1 or len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != "Add":
        return None
    add, other = uses[0].node, 1 - uses[0].idx
    vector = add.inputs[other]
    rank = None if vector is None else analyzer.dims(vector)
    if rank is None or len(rank) < 1 or rank[-1] != size or len(rank) > 3:
        return None
    return _site(analyzer, add, other, size, tuple([1] * (len(rank) - 1) + [size]))


def _site(
    analyzer: Analyzer,
    node: ir.Node,
    index: int,
    size: int,
    shape: tuple[int, ...],
    scale: float = 1.0,
    factor: float = 1.0,
) -> BiasSite | None:
    if scale == 0 or factor == 0:
        return None
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return BiasSite(node, index, scale, factor, np.zeros(size), shape)
    tensor = analyzer.tensor(value)
    if tensor is None:
        return None
    array = np.asarray(tensor.numpy()).astype(np.float64)
    if array.size == 1:
        return BiasSite(node, index, scale, factor, np.full(size, float(array.ravel()[0])), shape)
    if array.size != size or array.shape[-1] != size:
        return None
    return BiasSite(node, index, scale, factor, array.reshape(-1), array.shape)
