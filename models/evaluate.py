"""Accuracy of the digits networks on a fixed held-out split, by onnxruntime.

    python models/evaluate.py models/digits_resnet.onnx [MORE.onnx ...]

prints one JSON line a model. The data ships with scikit-learn (`load_digits`: 1,797 grey 8x8 images
by 13 writers, in the order in which they were collected). The split does not shuffle, so that the
held-out part is by writers who are mostly not in the training part.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TRAIN_SAMPLES = 1200
"""The first 1,200 images train and calibrate; the other 597 are only ever evaluated on."""


@lru_cache(maxsize=1)
def split() -> tuple[Array, Array, Array, Array]:
    """Return ``(train_x, train_y, test_x, test_y)``.

    Images are float32 [N, 1, 16, 16] in 0..1: the 8x8 originals with every pixel doubled in both
    directions, so that two stride-2 stages still leave a 4x4 map. Labels are int64 [N]. The arrays
    are shared between callers and therefore read-only.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.asarray(digits.images, np.float32) / np.float32(16)
    images = images.repeat(2, axis=1).repeat(2, axis=2)[:, None]
    labels = np.asarray(digits.target, np.int64)
    parts = (
        images[:TRAIN_SAMPLES],
        labels[:TRAIN_SAMPLES],
        images[TRAIN_SAMPLES:],
        labels[TRAIN_SAMPLES:],
    )
    for part in parts:
        part.setflags(write=False)
    return parts


def logits(model: str | Path | bytes | Any, images: Array | None = None, batch: int = 128) -> Array:
    """Run ``model`` on ``images`` (default: the held-out ones) and return float [N, 10].

    Args:
        model: path or bytes of an ONNX model with one input [batch, 1, 16, 16] and one output
            [batch, 10], or a ready ``onnxruntime.InferenceSession`` of one.
        images: float32 [N, 1, 16, 16].
        batch: how many samples a call; the last call has fewer, which needs a dynamic batch axis.
    """
    import onnxruntime as ort

    if isinstance(model, (str, Path)):
        model = Path(model).read_bytes()
    if isinstance(model, bytes):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        model = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if images is None:
        images = split()[2]
    name = model.get_inputs()[0].name
    parts = [
        model.run(None, {name: images[start : start + batch]})[0]
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


def accuracy(model: str | Path | bytes | Any) -> float:
    """Return the share of the 597 held-out images that ``model`` labels rightly, 0..1.

    Args:
        model: what :func:`logits` accepts.
    """
    return float((logits(model).argmax(axis=1) == split()[3]).mean())


def main(paths: list[str]) -> int:
    """Print one JSON line for each path; the process exit code."""
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    for path in paths:
        print(json.dumps({"model": path, "metric": "top1", "value": round(accuracy(path), 6)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
