"""Pooling: channels pass, positions stay."""

from onnxprune.rules.base import Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

_POOL = "n c *s -> n c *t"
_ROI = "n c *s, r *a, r -> r c *t"
_K2 = {"kernel_shape": [2, 2], "strides": [2, 2]}

register("AveragePool", TextRule(_POOL), _POOL, [Sample(((2, 3, 6, 6),), _K2)])
register("LpPool", TextRule(_POOL), _POOL, [Sample(((2, 3, 6, 6),), _K2)])
for _op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    register(_op, TextRule(_POOL), _POOL, [Sample(((2, 3, 6, 5),)), Sample(((2, 3, 6),))])


def max_pool(n: NodeView) -> None:
    """State what MaxPool does; its Indices count through the channels, so they hold them."""
    TextRule(_POOL)(n)
    if n.n_outputs > 1:
        for axis in (0, 1):
            n.freeze(n.ids(0, axis), "MaxPool's Indices output counts through this axis")


register(
    "MaxPool",
    max_pool,
    _POOL,
    [
        Sample(((2, 3, 6, 6),), _K2),
        Sample(((2, 3, 9),), {"kernel_shape": [3]}),
        Sample(((2, 3, 6, 6),), _K2, outputs=2),
    ],
)
register(
    "RoiAlign",
    TextRule(_ROI),
    _ROI,
    [
        Sample(
            ((1, 4, 6, 6), (2, 4), (2,)),
            {"output_height": 2, "output_width": 2},
            consts={1: [[0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 4.0, 4.0]], 2: [0, 0]},
            dtypes={2: "int64"},
        )
    ],
)
