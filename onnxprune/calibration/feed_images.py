"""A folder of image files as samples, with a preprocessing spec.

Spelled behind the folder: ``photos::resize=256,crop=224,mean=123.7/116.3/103.5,std=58/57/57``.
Steps run in this order, however they are spelled: resize the shorter edge, cut the centre, colour
order, ``(pixel * scale - mean) / std``, layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.feed_specs import Array, InputSpec
from onnxprune.errors import DataError, UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MARK = "::"
KEYS = ("resize", "crop", "scale", "mean", "std", "order", "layout")


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes an input.

    Attributes:
        resize: length that the shorter edge gets (bilinear); 0 to leave it.
        crop: edge of the square cut from the centre; 0 for what the input asks, if it is fixed.
        scale: factor of the pixel values 0..255.
        mean, std: a channel each or one for all, in the order of ``order``.
        order: ``rgb`` or ``bgr``; ``gray`` where the input has one channel.
        layout: ``nchw``, ``nhwc``, or empty for what the input's shape says.
    """

    resize: int = 0
    crop: int = 0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: str = "rgb"
    layout: str = ""

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Read ``key=value,key=value``; numbers of a list are separated by slashes.

        Raises:
            UsageError: an unknown key, or a value that cannot be meant.
        """
        values: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            key, equals, value = part.partition("=")
            if not equals or key not in KEYS:
                raise UsageError(
                    f"preprocessing {part!r}: write key=value with a key of {', '.join(KEYS)}"
                )
            try:
                if key in ("order", "layout"):
                    values[key] = value.lower()
                elif key in ("mean", "std"):
                    values[key] = tuple(float(v) for v in value.split("/"))
                elif key == "scale":
                    top, slash, bottom = value.partition("/")
                    values[key] = float(top) / float(bottom) if slash else float(top)
                else:
                    values[key] = int(value)
            except (ValueError, ZeroDivisionError):
                raise UsageError(f"preprocessing {part!r}: the value is no number") from None
        made = cls(**values)
        if made.order not in ("rgb", "bgr", "gray"):
            raise UsageError(f"order={made.order}: give rgb, bgr or gray")
        if made.layout not in ("", "nchw", "nhwc"):
            raise UsageError(f"layout={made.layout}: give nchw or nhwc")
        if min(made.resize, made.crop) < 0 or 0 in made.std:
            raise UsageError(f"preprocessing {text!r}: sizes are at least 0, std is not 0")
        return made

    def apply(self, file: Path, spec: InputSpec) -> Array:
        """Return one picture as a sample of the input, without batch axis.

        Raises:
            DataError: the file is no picture, or the input takes none.
        """
        image_module = _pillow()
        channels_last, channels, size = self._wanted(spec)
        gray = self.order == "gray" or channels == 1
        try:
            with image_module.open(file) as opened:
                image = opened.convert("L" if gray else "RGB")
        except Exception as error:  # Pillow raises many kinds
            raise DataError(f"{file} is not a readable picture: {error}") from error
        if self.resize:
            short = min(image.size)
            sizes = [max(1, round(edge * self.resize / short)) for edge in image.size]
            image = image.resize(sizes, image_module.Resampling.BILINEAR)
        height, width = (self.crop, self.crop) if self.crop else size
        if height and width:
            if image.size[0] < width or image.size[1] < height:
                image = image.resize(
                    (max(width, image.size[0]), max(height, image.size[1])),
                    image_module.Resampling.BILINEAR,
                )
            left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image, np.float32)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.order == "bgr":
            pixels = pixels[:, :, ::-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, pixels.shape[2]):
                raise UsageError(f"{name} has {len(values)} numbers for {pixels.shape[2]} channels")
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = (pixels * np.float32(self.scale) - mean) / std
        pixels = pixels if channels_last else pixels.transpose(2, 0, 1)
        dtype = spec.dtype.numpy()
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        return np.ascontiguousarray(pixels.astype(dtype))

    def _wanted(self, spec: InputSpec) -> tuple[bool, int | None, tuple[int, int]]:
        """(channels come last, their number, height and width or zeros) of the input."""
        dims = spec.dims or ()
        if len(dims) != 4:
            raise DataError(f"pictures need an input of four axes; the model takes {spec}")
        last = self.layout == "nhwc" or (
            not self.layout and dims[3] in (1, 3) and dims[1] not in (1, 3)
        )
        channels = dims[3] if last else dims[1]
        if isinstance(channels, int) and channels not in (1, 3):
            raise DataError(f"pictures have 1 or 3 channels; the model takes {spec}")
        sizes = [d if isinstance(d, int) else 0 for d in (dims[1:3] if last else dims[2:4])]
        return last, channels if isinstance(channels, int) else None, (sizes[0], sizes[1])


def pictures(folder: Path) -> list[Path]:
    """Return the picture files of a folder and its subfolders, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def records(files: list[Path], how: Preprocess, spec: InputSpec) -> Iterator[dict[str, Array]]:
    """Yield a sample for every picture."""
    for file in files:
        yield {spec.name: how.apply(file, spec)}


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading pictures needs Pillow: pip install pillow") from error
    return Image
