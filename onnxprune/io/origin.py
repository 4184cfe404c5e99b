"""What a model looked like on disk, as far as the IR has no place for it.

Kept in ``Model.meta`` / ``Graph.meta`` / ``Value.meta`` / ``Node.meta`` under the keys below;
``meta`` is never serialized by onnx-ir, and its cloner copies it for graphs, nodes and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

ORIGIN = "onnxprune.origin"
"""``Model.meta``: an :class:`Origin`."""

GRAPH = "onnxprune.graph"
"""``Graph.meta``: a :class:`GraphExtras`."""

SPARSE = "onnxprune.sparse"
"""``Value.meta`` of an initializer, ``Node.meta`` of a Constant: a ``sparse.SparseForm``."""

TYPE = "onnxprune.type"
"""``Value.meta``: bytes of a TypeProto that the IR's types cannot express."""

VALUE_INFO = "onnxprune.value_info"
"""``Value.meta`` of an initializer: True if the file had a ``value_info`` entry for it."""

ATTRIBUTES = "onnxprune.attributes"
"""``Node.meta``: tuple of bytes, each an AttributeProto that the IR cannot express."""

UNKNOWN = "onnxprune.unknown"
"""``Node.meta``: bytes of protobuf fields that the installed onnx does not know."""


@dataclass(frozen=True)
class Origin:
    """Facts about a whole model file.

    Attributes:
        path: absolute path of the file, None when the model came from memory.
        had_external: whether any tensor lay in an external data file.
        files: absolute paths that saving must not overwrite: the file and its external data.
        opset_alias: whether the default domain was spelled ``ai.onnx`` in ``opset_import``.
        training: serialized TrainingInfoProto messages.
        bound_shapes: shape of each initializer that ``training`` binds, by name.
        unknown: bytes of unknown fields of the ModelProto.
    """

    path: Path | None = None
    had_external: bool = False
    files: tuple[Path, ...] = ()
    opset_alias: bool = False
    training: tuple[bytes, ...] = ()
    bound_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unknown: bytes = b""


@dataclass
class GraphExtras:
    """Facts about one graph or function that onnx-ir drops.

    Attributes:
        annotations: serialized TensorAnnotation messages that name no value of the graph.
        value_info: serialized ValueInfoProto messages that name no value of the graph, by name.
        passed: inputs that are also outputs under a different description, by name: serialized
            ValueInfoProto of the input, of the output, and the TypeProto that the one IR value
            was given instead of the two.
        unknown: bytes of unknown fields of the GraphProto or FunctionProto.
    """

    annotations: tuple[bytes, ...] = ()
    value_info: dict[str, bytes] = field(default_factory=dict)
    passed: dict[str, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    unknown: bytes = b""

    def __bool__(self) -> bool:
        return bool(self.annotations or self.value_info or self.passed or self.unknown)


def origin_of(model: ir.Model) -> Origin:
    """Return the origin remembered by :func:`onnxprune.io.load`, or an empty one."""
    found = model.meta.get(ORIGIN)
    return found if isinstance(found, Origin) else Origin()
