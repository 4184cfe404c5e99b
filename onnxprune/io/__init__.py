"""The one place where bytes become a model and back.

``load`` takes a path, bytes, ``onnx.ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``
and gives a private ``onnx_ir.Model``; ``save`` writes one, whole or not at all;
``Loaded.restore`` gives back the kind that came in. What onnx-ir would drop (sparse tensors,
training information, types it has no word for, unknown fields) is carried around it in ``meta``;
what cannot be carried is an error that names it.

Modules: ``read`` bytes to checked protobuf, ``skim`` and ``infile`` weights that stay in a large
file, ``external`` external data, ``sparse`` and ``carry`` what onnx-ir cannot hold, ``loading`` and
``saving`` the two directions, ``encode``, ``payload`` and ``wire`` the streaming writer, ``atomic``
files that appear whole, ``walk`` graphs inside graphs, ``weights`` tensors that cannot be scored.
"""

from onnxprune.io.infile import DerivedTensor, derived, stays_out
from onnxprune.io.loading import Kind, Loaded, Source, load
from onnxprune.io.origin import Origin
from onnxprune.io.saving import save, spread, to_bytes, to_graph, to_proto
from onnxprune.io.size import stored_size
from onnxprune.io.weights import nonfinite_weights, overridable, take_from_inputs

__all__ = [
    "DerivedTensor",
    "Kind",
    "Loaded",
    "Origin",
    "Source",
    "derived",
    "load",
    "nonfinite_weights",
    "overridable",
    "save",
    "spread",
    "stays_out",
    "stored_size",
    "take_from_inputs",
    "to_bytes",
    "to_graph",
    "to_proto",
]
