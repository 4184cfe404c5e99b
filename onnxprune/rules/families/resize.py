"""Resampling, and moves between channels and positions."""

from __future__ import annotations

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView


def _kept_size(n: NodeView, axis: int, scales: list[float] | None, sizes_at: int | None) -> bool:
    """Return whether the resize leaves ``axis`` alone."""
    if scales is not None:
        return scales[axis] == 1.0
    before, after = (n.dims(0) or [])[axis], (n.out_dims() or [])[axis]
    if isinstance(before, int) and before == after:
        return True
    return sizes_at is not None and n.same_size(1 if n.opset < 11 else 3, sizes_at, 0, axis)


def resize(n: NodeView) -> None:
    """State what Resize / Upsample do: an axis of scale one passes."""
    rank = n.rank(0)
    if n.out_rank() != rank:
        raise GiveUp("a result of another rank")
    axes = [n.axis(a, rank) for a in n.attr("axes") or range(rank)]
    scale_input = 1 if n.opset < 11 else 2
    scales: list[float] | None = None
    given = n.attr("scales")
    if n.op == "Resize" or n.opset >= 9:
        known = n.const(scale_input)
        given = None if known is None or not known.size else [float(v) for v in known.reshape(-1)]
    if given is not None:
        if len(given) != len(axes):
            raise GiveUp("scales that do not fit the rank")
        scales = [1.0] * rank
        for axis, scale in zip(axes, given, strict=True):
            scales[axis] = scale
    sizes = n.op == "Resize" and n.opset >= 11 and n.has(3) and given is None
    if n.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise GiveUp("tf_crop_and_resize crops")
    # Otherwise the size asked for is a bound, and the scale is common to all of ``axes``.
    stretch = n.attr("keep_aspect_ratio_policy", "stretch") == "stretch"
    for axis in range(rank):
        ids, out = n.ids(0, axis), n.out_ids(axis)
        at = axes.index(axis) if axis in axes else None
        if at is None or (stretch and _kept_size(n, axis, scales, at if sizes else None)):
            n.link(ids, out)
        else:
            n.freeze(ids, "is resampled here")
            n.freeze(out, "is resampled here")
    if sizes and stretch:  # a bound is not the size of what comes out
        n.keep_sizes(3, [n.out_ids(axis) for axis in axes])


_GRID = "n c *s, n *p -> n c *t"
_DCR = "n (r q c) h w -> n c (h r) (w q)"
_CRD = "n (c r q) h w -> n c (h r) (w q)"
_S2D = "n c (h r) (w q) -> n (r q c) h w"
_S2D_CRD = "n c (h r) (w q) -> n (c r q) h w"


def _bind(n: NodeView) -> dict[str, int]:
    size = int(n.attr("blocksize", 0))
    if size < 1:
        raise GiveUp("a blocksize below one")
    return {"r": size, "q": size}


def depth_to_space(n: NodeView) -> None:
    """State what DepthToSpace does in either of its modes."""
    TextRule(_CRD if n.attr("mode", "DCR") == "CRD" else _DCR, _bind)(n)


def space_to_depth(n: NodeView) -> None:
    """State what SpaceToDepth does in either of its modes, of which the second is of opset 28."""
    TextRule(_S2D_CRD if n.attr("mode", "DCR") == "CRD" else _S2D, _bind)(n)


_X = (2, 3, 4, 4)
_SCALES = {1: [], 2: [1.0, 1.0, 2.0, 2.0]}
_SIZES = {1: [], 2: [], 3: [2, 3, 6, 7]}
_LINEAR = {"mode": "linear"}
register(
    "Resize",
    resize,
    "axes of scale one pass",
    [
        Sample((_X, (0,), (4,)), {}, _SCALES),
        Sample((_X, (0,), (0,), (4,)), _LINEAR, _SIZES, dtypes={3: "int64"}),
        Sample((_X, None, (2,)), {"axes": [2, 3], "mode": "cubic"}, {2: [2.0, 2.0]}),
        Sample(
            (_X, None, None, (2,)),
            {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "linear"},
            {3: [6, 9]},
            dtypes={3: "int64"},
        ),
        Sample(
            ((2, 3, 2, 4), None, None, (2,)),
            {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller", "mode": "nearest"},
            {3: [1, 3]},
            dtypes={3: "int64"},
            result=(2, 3, 2, 3),
        ),
        Sample((_X, (4,)), {}, {1: [1.0, 1.0, 2.0, 2.0]}, opset=10),
    ],
)
register(
    "Upsample",
    resize,
    "axes of scale one pass",
    [
        Sample((_X, (4,)), {}, {1: [1.0, 1.0, 2.0, 2.0]}, opset=9),
        Sample((_X,), {"scales": [1.0, 1.0, 2.0, 2.0]}, opset=7),
    ],
)
register(
    "GridSample",
    TextRule(_GRID),
    _GRID,
    [
        Sample(((2, 3, 4, 5), (2, 3, 6, 2))),
        Sample(((1, 3, 4, 5, 3), (1, 2, 3, 4, 3)), {"mode": "nearest"}, opset=20),
    ],
)
register(
    "DepthToSpace",
    depth_to_space,
    _DCR + " (CRD: (c r q))",
    [
        Sample(((2, 12, 3, 3),), {"blocksize": 2, "mode": "DCR"}),
        Sample(((2, 12, 3, 3),), {"blocksize": 2, "mode": "CRD"}),
    ],
)
register(
    "SpaceToDepth",
    space_to_depth,
    _S2D + " or its CRD order",
    [
        Sample(((2, 3, 4, 6),), {"blocksize": 2}),
        Sample(((2, 3, 4, 6),), {"blocksize": 2, "mode": "CRD"}, opset=28),
    ],
)
