"""Back to dense: every packed operator and sparse initializer as the standard model had it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.errors import LoadError
from onnxprune.formats.base import MAX_DENSE_BYTES, decode
from onnxprune.formats.bits import Array
from onnxprune.formats.weights import (
    DECODE,
    DOMAIN,
    STANDARD,
    Scope,
    constant_tensor,
    scopes,
)

OWN_ATTRIBUTES = ("weight_shape", "weight_dtype", "weight_input", "inferred_output")


@dataclass(frozen=True, eq=False)
class Packed:
    """What a restored weight looked like before."""

    blob: ir.TensorProtocol
    decoded: bool
    """Whether it was behind a SparseDecode node."""


def restore(model: ir.Model, max_bytes: int = MAX_DENSE_BYTES) -> dict[ir.Value, Packed]:
    """Turn every operator of ``ai.onnxprune`` back, in place.

    Returns:
        The restored values, each with the packed form it had.

    Raises:
        LoadError: a blob is damaged, does not match its node, or is not a constant; the message
            names the node. The model is then unchanged.
    """
    nodes = [(scope, node) for scope in scopes(model) for node in scope.graph]
    packed = [(scope, node) for scope, node in nodes if node.domain == DOMAIN]
    dense: dict[ir.Value, Array] = {}
    for scope, node in packed:
        _check_node(node, dense, max_bytes)
        if node.op_type == DECODE and not isinstance(scope.graph, ir.Graph):
            raise LoadError(
                f"node {node.name!r} ({DECODE}) is inside function {scope.graph.name!r}, which "
                "cannot hold its weight as an initializer; inline the function first"
            )
    previous: dict[ir.Value, Packed] = {}
    for scope, node in packed:
        if node.op_type == DECODE:
            _undo_decode(scope, node, dense, previous)
    for value, array in dense.items():
        if value not in previous and value.uses():
            blob = constant_tensor(value)
            assert blob is not None  # _check_node
            previous[value] = Packed(blob, decoded=False)
            put_tensor(value, array, ir.DataType.from_numpy(array.dtype))
    for _, node in packed:
        if node.op_type in STANDARD:
            _undo_node(node)
    for scope in {id(s.opset_imports): s for s, _ in packed}.values():
        scope.opset_imports.pop(DOMAIN, None)
    return previous


def put_tensor(value: ir.Value, array: Array, dtype: ir.DataType) -> None:
    """Give an initializer or a Constant node another tensor, type and shape; all else stays."""
    old = constant_tensor(value)
    assert old is not None
    tensor = ir.Tensor(
        array,
        dtype=dtype,
        name=old.name,
        doc_string=old.doc_string,
        metadata_props=dict(old.metadata_props),
    )
    if value.type is not None:
        value.type = ir.TensorType(dtype)
    if value.shape is not None:
        value.shape = ir.Shape(array.shape)
    node = value.producer()
    if node is None:
        value.const_value = tensor
    else:
        node.attributes["value"] = ir.AttrTensor("value", tensor)
        if value.const_value is not None:
            value.const_value = tensor


def _weight_of(node: ir.Node) -> tuple[ir.Value, ir.TensorProtocol]:
    """Return the packed input of a node and its tensor."""
    at = 0 if node.op_type == DECODE else 1
    value = node.inputs[at] if len(node.inputs) > at else None
    tensor = None if value is None else constant_tensor(value)
    if node.op_type != DECODE and node.op_type not in STANDARD:
        raise LoadError(
            f"node {node.name!r}: operator {DOMAIN}.{node.op_type} is unknown to this version; "
            "update onnxprune"
        )
    if value is None or tensor is None or tensor.dtype != ir.DataType.UINT8:
        raise LoadError(
            f"node {node.name!r} ({node.op_type}): input {at} is not a constant packed weight; "
            "only models whose packed weights are initializers or Constants can be restored"
        )
    foreign = [user for user, _ in value.uses() if user.domain != DOMAIN]
    if foreign or value.is_graph_input() or value.is_graph_output():
        raise LoadError(
            f"packed weight {value.name!r} of node {node.name!r} is also used outside {DOMAIN}; "
            "it cannot be restored without changing that use"
        )
    return value, tensor


def _check_node(node: ir.Node, dense: dict[ir.Value, Array], max_bytes: int) -> None:
    """Decode a node's weight into ``dense`` (once per value), and check its attributes."""
    value, tensor = _weight_of(node)
    try:
        if value not in dense:
            raw = np.ascontiguousarray(tensor.numpy()).reshape(-1)
            dense[value] = decode(raw.data, max_bytes=max_bytes)
        shape = tuple(node.attributes["weight_shape"].as_ints())
        dtype = ir.DataType(node.attributes["weight_dtype"].as_int())
        at = 0 if node.op_type == DECODE else node.attributes["weight_input"].as_int()
    except LoadError as error:
        raise LoadError(f"node {node.name!r}, weight {value.name!r}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(
            f"node {node.name!r} ({node.op_type}): attributes weight_shape, weight_dtype and "
            f"weight_input must be there and valid ({error}); convert the original model again"
        ) from error
    array = dense[value]
    if shape != array.shape or dtype.numpy() != array.dtype or at not in (0, 1):
        raise LoadError(
            f"node {node.name!r} says its weight is {dtype} {list(shape)}, but {value.name!r} "
            f"holds {array.dtype} {list(array.shape)}; convert the original model again"
        )


def _undo_decode(
    scope: Scope, node: ir.Node, dense: dict[ir.Value, Array], previous: dict[ir.Value, Packed]
) -> None:
    """Make the output of a SparseDecode node an initializer again, where its blob is."""
    holder, output = node.inputs[0], node.outputs[0]
    assert holder is not None and isinstance(scope.graph, ir.Graph)
    blob = constant_tensor(holder)
    assert blob is not None
    name, array = output.name, dense[holder]
    restored = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        doc_string=output.doc_string,
        metadata_props=dict(output.metadata_props),
        const_value=ir.Tensor(
            array,
            name=name,
            doc_string=blob.doc_string,
            metadata_props=dict(blob.metadata_props),
        ),
    )
    restored.meta.update(output.meta)
    output.replace_all_uses_with(restored, replace_graph_outputs=True)
    scope.graph.remove(node, safe=True)
    if holder.is_initializer() and not holder.uses() and holder.graph is scope.graph:
        replace_initializer(scope.graph, holder, restored)
    else:
        scope.graph.initializers.add(restored)
    previous[restored] = Packed(blob, decoded=True)


def replace_initializer(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Put ``new`` at the place of ``old`` in the order of a graph's initializers."""
    values = [new if value is old else value for value in graph.initializers.values()]
    graph.initializers.clear()
    for value in values:
        graph.initializers.add(value)


def _undo_node(node: ir.Node) -> None:
    """Make a packed operator the standard one; its weight is dense already."""
    weight_input = node.attributes["weight_input"].as_int()
    inferred = node.attributes.get("inferred_output")
    node.op_type = STANDARD[node.op_type]
    node.domain = ""
    if weight_input == 0:
        swap_inputs(node)
    if inferred is not None and inferred.as_int():
        node.outputs[0].type = None
        node.outputs[0].shape = None
    for name in OWN_ATTRIBUTES:
        node.attributes.pop(name, None)


def swap_inputs(node: ir.Node) -> None:
    """Exchange the first two inputs of a node."""
    first, second = node.inputs[0], node.inputs[1]
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)
