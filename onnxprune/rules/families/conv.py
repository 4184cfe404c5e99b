"""Convolutions of any number of spatial dims, grouped, depth-wise, transposed."""

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView


def _group(n: NodeView) -> dict[str, int]:
    return {"g": int(n.attr("group", 1))}


_CONV = "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t"
_TRANSPOSED = "n (g i) *s, (g i) o *k, (g o)? -> n (g o) *t"

register(
    "Conv",
    TextRule(_CONV, _group, weight=(1,), size_attrs={"group": "g"}),
    _CONV,
    [
        Sample(((2, 6, 5, 7), (8, 6, 3, 3), (8,)), {"pads": [1, 1, 1, 1]}),
        Sample(((2, 6, 5, 5), (8, 6, 1, 1)), {"strides": [2, 2]}),
        Sample(((1, 8, 6, 6), (12, 2, 3, 3), (12,)), {"group": 4}),
        Sample(((1, 6, 6, 6), (6, 1, 3, 3)), {"group": 6, "dilations": [2, 2]}),
        Sample(((1, 6, 6, 6), (18, 1, 3, 3), (18,)), {"group": 6, "auto_pad": "SAME_UPPER"}),
        Sample(((2, 5, 9), (4, 5, 3), (4,))),
        Sample(((1, 4, 4, 5, 3), (6, 2, 2, 2, 2), (6,)), {"group": 2}),
    ],
)

register(
    "ConvTranspose",
    TextRule(_TRANSPOSED, _group, weight=(1,), size_attrs={"group": "g"}, macs_over_input=True),
    _TRANSPOSED,
    [
        Sample(((2, 6, 5, 5), (6, 4, 3, 3), (4,)), {"strides": [2, 2], "output_padding": [1, 1]}),
        Sample(((1, 8, 4, 4), (8, 3, 2, 2), (12,)), {"group": 4}),
        Sample(((1, 6, 4, 4), (6, 1, 3, 3)), {"group": 6}),
        Sample(((1, 3, 7), (3, 5, 4)), {"strides": [2]}),
        Sample(((1, 3, 3, 4, 3), (3, 5, 2, 2, 2), (5,))),
    ],
)

# The offsets say where to look: their channels are neither summed over nor ours to prune.
_DEFORM = "n (g i) *s, (g o) i *k, n f *p, (g o)?, n m *q? -> n (g o) *t"


def deform(n: NodeView) -> None:
    """State what DeformConv does with one set of offsets for all channels."""
    if int(n.attr("offset_group", 1)) != 1:
        raise GiveUp("DeformConv with offsets for groups of channels")
    TextRule(_DEFORM, _group, weight=(1,), size_attrs={"group": "g"}, mixed=("f", "m"))(n)


register(
    "DeformConv",
    deform,
    _DEFORM,
    [
        Sample(((1, 6, 5, 5), (4, 6, 2, 2), (1, 8, 4, 4), (4,)), opset=19),
        Sample(((1, 4, 5, 5), (6, 2, 2, 2), (1, 8, 4, 4), None, (1, 4, 4, 4)), {"group": 2},
               opset=19),
    ],
)  # fmt: skip
