"""Rewriting a model so that its weights are stored in a sparse form, and measuring it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxprune.errors import UsageError
from onnxprune.formats.base import FORMATS
from onnxprune.formats.bits import Array, to_bits
from onnxprune.formats.choose import AUTO, COO, DENSE, Choice, Role, choose
from onnxprune.formats.coo import to_sparse_tensor
from onnxprune.formats.restore import (
    Packed,
    put_tensor,
    replace_initializer,
    restore,
    swap_inputs,
)
from onnxprune.formats.weights import (
    DECODE,
    DOMAIN,
    OPSET,
    PACKED,
    Weight,
    find_weights,
    scopes,
)
from onnxprune.io.origin import SPARSE
from onnxprune.io.sparse import SparseForm

_NO_ROLE = Role("", 0)


@dataclass(frozen=True)
class TensorStats:
    """One weight before and after; all sizes in bytes."""

    name: str
    operator: str
    """The operators that use it, comma-separated."""
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    """Fraction of elements that are +0.0 (all bits zero)."""
    dense_bytes: int
    before: int
    """In the form it had."""
    after: int
    format: str
    reason: str = ""
    """Why it stayed dense."""
    negative_zeros: int = 0
    """Elements that are -0.0: kept as they are, so stored like non-zeros, unless merged."""


@dataclass(frozen=True)
class PackStats:
    """What a conversion did."""

    format: str
    modified: bool
    tensors: tuple[TensorStats, ...]

    @property
    def before(self) -> int:
        """Bytes of all weights looked at, as they were."""
        return sum(t.before for t in self.tensors)

    @property
    def after(self) -> int:
        """Bytes of all weights looked at, as they are now."""
        return sum(t.after for t in self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": self.format,
            "modified": self.modified,
            "bytes": {"before": self.before, "after": self.after},
            "tensors": [asdict(t) for t in self.tensors],
        }


def format_choices() -> list[str]:
    """Return every name ``convert_model`` takes as ``format``."""
    return [AUTO, DENSE, *FORMATS.names()]


def convert_model(
    model: ir.Model,
    format: str = AUTO,
    *,
    min_saving: float = 0.0,
    block: tuple[int, int] | None = None,
    others: bool = False,
    merge_zeros: bool = False,
) -> PackStats:
    """Store the weights of ``model`` in another form, in place.

    Whatever form they have now (packed, sparse initializer, dense) is undone first, so the result
    depends only on the numbers and the options; ``dense`` gives the standard model back.

    Args:
        model: main graph, subgraphs and functions are handled.
        format: ``auto`` (smallest per tensor), ``dense``, ``coo`` (standard ``sparse_initializer``)
            or a name of :data:`FORMATS`.
        min_saving: leave a weight dense unless this fraction of its bytes is saved; at most 1,
            negative values allow it to grow.
        block: ``bsr`` block height and width, ``nm`` N and M, ``eie`` (elements, 0), ``coo`` (1, 0)
            for N-d indices; not for the others.
        others: also pack initializers that other operators use, behind ``SparseDecode``.
        merge_zeros: store -0.0 as 0.0 in every weight that is packed. Masks applied by
            multiplication leave -0.0 behind, which is not a zero bit for bit; ``dense`` then gives
            back 0.0.

    Raises:
        UsageError: unknown format, or an option out of range.
        LoadError: the model holds a damaged packed weight.
    """
    _check_options(format, min_saving, block)
    previous = restore(model)
    rows: list[TensorStats] = []
    modified = False
    packed: list[Weight] = []
    for weight in find_weights(model):
        known = weight.role is not None or weight.fixed or weight.value in previous
        if not known and not others and _sparse_form(weight) is None:
            continue
        array = weight.tensor.numpy()
        negative = _negative_zeros(array)
        if merge_zeros and negative.any():
            array = np.where(negative, np.zeros((), array.dtype), array)
        choice = _choice(weight, array, format, block, min_saving, others)
        old = previous.get(weight.value)
        rows.append(_stats(weight, array, choice, old, int(np.count_nonzero(negative))))
        if choice.blob is not None:
            packed.append(weight)
        modified |= _apply(weight, array, choice, old, nd=block == (1, 0))
    if packed:
        _infer_outputs(model)
        for scope in scopes(model):
            if any(node.domain == DOMAIN for node in scope.graph):
                scope.opset_imports[DOMAIN] = OPSET
    return PackStats(format, modified, tuple(rows))


def _check_options(format: str, min_saving: float, block: tuple[int, int] | None) -> None:
    if format not in (AUTO, DENSE):
        FORMATS.get(format)
    if not min_saving <= 1:
        raise UsageError(
            f"min_saving is a fraction of the dense bytes, at most 1, got {min_saving}"
        )
    if block is not None and format not in ("bsr", "nm", "eie", "coo"):
        raise UsageError(f"format {format} takes no block, got {block}; leave it out")


def _choice(
    weight: Weight,
    array: Array,
    format: str,
    block: tuple[int, int] | None,
    min_saving: float,
    others: bool,
) -> Choice:
    if not array.size:
        return Choice(DENSE, None, 0, "it has no elements")
    if format == COO and isinstance(weight.scope.graph, ir.Function):
        # onnxruntime 1.31 crashes while loading a Constant with sparse_value in a function
        reason = "runtimes do not take sparse constants inside functions"
        return Choice(DENSE, None, array.nbytes, reason)
    role = weight.role
    if role is None:
        if weight.fixed or not others:
            return Choice(DENSE, None, array.nbytes, weight.reason)
        if format != COO and not weight.decodable:
            reason = f"{weight.reason}, and only initializers can be decoded"
            return Choice(DENSE, None, array.nbytes, reason)
        role = _NO_ROLE
    return choose(array, role, format, block=block, min_saving=min_saving)


def _apply(weight: Weight, array: Array, choice: Choice, old: Packed | None, *, nd: bool) -> bool:
    """Give the weight its new form; return whether that differs from the form it had."""
    form = _sparse_form(weight)
    if choice.format == COO and choice.blob is None:
        tensor = weight.tensor
        if form is not None and form.dense is tensor and form.linear != nd:
            return old is not None
        _meta(weight)[SPARSE] = _make_form(weight, array, nd)
        return True
    _meta(weight).pop(SPARSE, None)
    if choice.blob is None:
        return old is not None or form is not None
    decoded = weight.role is None
    if decoded:
        _insert_decode(weight, array, choice.blob)
    else:
        uses = list(weight.value.uses())
        put_tensor(weight.value, np.frombuffer(choice.blob, np.uint8), ir.DataType.UINT8)
        for node, index in uses:
            _pack_node(node, index, array)
    same = old is not None and old.decoded == decoded and old.blob.tobytes() == choice.blob
    return not same


def _pack_node(node: ir.Node, weight_input: int, array: Array) -> None:
    """Make a standard operator the packed one; its weight holds a blob already."""
    node.op_type = PACKED[node.op_type]
    node.domain = DOMAIN
    if weight_input == 0:
        swap_inputs(node)
    _describe(node, array)
    node.attributes.add(ir.AttrInt64("weight_input", weight_input))


def _describe(node: ir.Node, array: Array) -> None:
    node.attributes.add(ir.AttrInt64s("weight_shape", list(array.shape)))
    node.attributes.add(ir.AttrInt64("weight_dtype", ir.DataType.from_numpy(array.dtype).value))


def _insert_decode(weight: Weight, array: Array, blob: bytes) -> None:
    """Replace an initializer by a packed one and the node that decodes it."""
    graph, old, tensor = weight.scope.graph, weight.value, weight.tensor
    assert isinstance(graph, ir.Graph)
    name = _unused_name(graph, f"{old.name}.packed")
    content = np.frombuffer(blob, np.uint8)
    holder = ir.Value(
        name=name,
        shape=ir.Shape(content.shape),
        type=ir.TensorType(ir.DataType.UINT8),
        const_value=ir.Tensor(
            content,
            name=name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        ),
    )
    node = ir.Node(DOMAIN, DECODE, [holder], num_outputs=1)
    output = node.outputs[0]
    _describe(node, array)
    replace_initializer(graph, old, holder)
    old_uses = graph.node(0)
    # after the decoding nodes that are there already, so that they keep the initializers' order
    for candidate in graph:
        old_uses = candidate
        if candidate.op_type != DECODE or candidate.domain != DOMAIN:
            break
    graph.insert_before(old_uses, node)
    old.replace_all_uses_with(output)
    output.name, output.doc_string = old.name, old.doc_string
    output.type, output.shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    output.metadata_props.update(old.metadata_props)
    output.meta.update(old.meta)


def _unused_name(graph: ir.Graph, name: str) -> str:
    used = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    used |= {value.name for node in graph.all_nodes() for value in node.outputs}
    candidate, count = name, 1
    while candidate in used:
        candidate, count = f"{name}.{count}", count + 1
    return candidate


def _infer_outputs(model: ir.Model) -> None:
    """Give outputs of packed operators the type and shape they had as standard operators."""
    missing: dict[tuple[int, str], ir.Node] = {}
    graphs = list(model.graphs())
    for place, graph in enumerate(graphs):
        for node in graph:
            if node.domain != DOMAIN or not node.outputs:
                continue
            output = node.outputs[0]
            if output.name and output.type is None and output.shape is None:
                missing[place, output.name] = node
    if not missing:
        return
    # Inference has to see standard operators with dense weights, so it runs on a restored copy.
    standard = model.clone()
    restore(standard)
    logger = logging.getLogger(ShapeInferencePass.__module__)
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # where inference fails, shapes just stay unknown
    try:
        ShapeInferencePass(strict_mode=False).call(standard)
    finally:
        logger.setLevel(level)
    for place, graph in enumerate(standard.graphs()):
        for node in graph:
            target = missing.get((place, node.outputs[0].name or "")) if node.outputs else None
            if target is None or node.outputs[0].type is None or node.outputs[0].shape is None:
                continue
            target.outputs[0].type = node.outputs[0].type
            target.outputs[0].shape = node.outputs[0].shape
            target.attributes.add(ir.AttrInt64("inferred_output", 1))


def _meta(weight: Weight) -> Any:
    """Where io remembers that a weight is sparse: the initializer's value or the Constant."""
    return (weight.value if weight.constant is None else weight.constant).meta


def _sparse_form(weight: Weight) -> SparseForm | None:
    form = _meta(weight).get(SPARSE)
    return form if isinstance(form, SparseForm) else None


def _make_form(weight: Weight, array: Array, nd: bool) -> SparseForm:
    """Return the standard's sparse tensor for io to write as it is (so -0.0 survives)."""
    tensor = weight.tensor
    sparse = to_sparse_tensor(array, nd=nd)
    name = (weight.value.name if weight.constant is None else tensor.name) or ""
    proto = onnx.SparseTensorProto(dims=array.shape)
    values = ir.Tensor(sparse.values, dtype=tensor.dtype, name=name, doc_string=tensor.doc_string)
    proto.values.CopyFrom(ir.serde.serialize_tensor(values))
    proto.indices.CopyFrom(ir.serde.serialize_tensor(ir.Tensor(sparse.indices)))
    return SparseForm(proto.SerializeToString(), name, linear=not nd, dense=tensor)


def _stats(
    weight: Weight, array: Array, choice: Choice, old: Packed | None, negative_zeros: int
) -> TensorStats:
    form = _sparse_form(weight)
    before = array.nbytes
    if old is not None:
        before = old.blob.nbytes
    elif form is not None:
        proto = onnx.SparseTensorProto.FromString(form.proto)
        before = proto.values.ByteSize() + proto.indices.ByteSize()
    nonzero = np.count_nonzero(to_bits(array))
    return TensorStats(
        name=weight.value.name or "",
        operator=",".join(sorted({node.op_type for node, _ in weight.value.uses()})),
        shape=tuple(array.shape),
        dtype=str(array.dtype),
        sparsity=1 - int(nonzero) / array.size if array.size else 0.0,
        dense_bytes=array.nbytes,
        before=before,
        after=choice.nbytes,
        format=choice.format,
        reason=choice.reason,
        negative_zeros=negative_zeros,
    )


def _negative_zeros(array: Array) -> Array:
    """Return where ``array`` is -0.0; nowhere for types that do not have it."""
    bits = to_bits(array)
    if array.dtype.kind in "biu" or array.dtype.name.endswith("fnuz"):
        return np.zeros(array.shape, np.bool_)
    negative: Array = bits == bits.dtype.type(1 << (8 * array.itemsize - 1))
    return negative
