"""Calibration samples for the digits networks: ``--data models/calib.py:samples``.

They are training images without their labels, never the held-out ones.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLES = 512


def _images() -> npt.NDArray[Any]:
    """Return the training images, from the neighbouring file wherever this one is loaded from."""
    path = Path(__file__).with_name("evaluate.py")
    spec = importlib.util.spec_from_file_location("onnxprune_models_evaluate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images: npt.NDArray[Any] = module.split()[0]
    return images


def samples() -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield one feed a sample: ``{"image": float32 [1, 1, 16, 16]}``, the same ones every time.

    :data:`SAMPLES` training images at equal distances in the order of the data set, which runs
    through the ten digits over and over, so that all classes are there.
    """
    images = _images()
    for index in np.linspace(0, len(images) - 1, SAMPLES).astype(int):
        yield {"image": images[index : index + 1]}
