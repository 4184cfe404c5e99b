"""Inputs out of nothing that a real model accepts, the same for the same seed."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxprune.calibration.feed_integers import IntegerUse, integer_use
from onnxprune.calibration.feed_sizes import LADDERS, open_dims, size_of
from onnxprune.calibration.feed_specs import Array, Feed, InputSpec, input_specs
from onnxprune.errors import DataError
from onnxprune.io import Source, load, to_bytes
from onnxprune.io.open_dims import BATCH, SEQUENCE, SOUND
from onnxprune.rules.symbols import told_sizes

_MASK = re.compile(r"mask", re.IGNORECASE)
_RATE = re.compile(r"^sr$|sampl\w*_?rate", re.IGNORECASE)
_LENGTH = re.compile(r"len(gth)?s?$|num_frames", re.IGNORECASE)
_POSITION = re.compile(r"position", re.IGNORECASE)
_SAMPLING_RATE = 16_000  # Hz; the usual one of speech models
_MOST = 1 << 25  # numbers of an input, beyond which a guessed size is not worth trying
_FREE = 8  # integers that nothing limits are drawn from [0, 8)


def random_feeds(model: ir.Model, seed: int, dims: Mapping[str, int] | None = None) -> Feed:
    """Return one random feed that is shaped and valued as the model expects.

    Floats are drawn from N(0, 1), 8-bit integers from their whole range, integers that index a
    table (Gather, OneHot, an embedding, however far behind casts and reshapes) from the table's
    size; masks are ones, lengths are the sequence's, sampling rates 16 kHz. Inputs with a default
    in the model are left to it.

    Args:
        model: the model; not changed.
        seed: the same seed gives the same arrays, bit for bit.
        dims: sizes of open dimensions, by symbolic name or, where they have none, by
            ``input[axis]``. Others get what the weights ask for, 1 if they are a batch, else the
            first of the sizes that :func:`working_feeds` would try.

    Raises:
        DataError: an input that is no tensor.
    """
    specs = [s for s in input_specs(model) if not s.optional]
    sizes = {key: LADDERS[role][0] for key, role in open_dims(specs).items()}
    sizes |= told_sizes(model.graph) | dict(dims or {})
    values = {v.name: v for v in model.graph.inputs}
    longest = max((size for k, size in sizes.items() if _is_sequence(specs, k)), default=1)
    rng = np.random.default_rng(seed)
    feed: Feed = {}
    for spec in specs:
        shape = _shape(spec, sizes)
        feed[spec.name] = _array(model, values[spec.name], spec, shape, longest, rng)
    return feed


def _is_sequence(specs: list[InputSpec], key: str) -> bool:
    return open_dims(specs).get(key) in (SEQUENCE, SOUND)


def _shape(spec: InputSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = []
    for axis, dim in enumerate(spec.dims or ()):
        key = spec.dim_key(axis)
        size = dim if isinstance(dim, int) else size_of(key or "", sizes)
        shape.append(1 if size is None else max(0, size))
    return tuple(shape)


def _array(
    model: ir.Model,
    value: ir.Value,
    spec: InputSpec,
    shape: tuple[int, ...],
    longest: int,
    rng: np.random.Generator,
) -> Array:
    if spec.is_string:
        return np.full(shape, "a", dtype=object)
    dtype = spec.dtype.numpy()
    name = spec.name
    if spec.dtype.is_floating_point() or dtype.kind == "c":
        if _MASK.search(name):
            return np.ones(shape, dtype)
        if _RATE.search(name) and np.prod(shape) == 1:
            return np.full(shape, _SAMPLING_RATE, dtype)
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    use = integer_use(model, value)
    if dtype == np.bool_:
        # A lone flag usually switches to a cached or special path; the plain one is without it.
        return np.full(shape, bool(_MASK.search(name)) or np.prod(shape) > 1, dtype)
    return _integers(name, dtype, use, shape, longest, rng)


def _integers(
    name: str,
    dtype: np.dtype[Any],
    use: IntegerUse,
    shape: tuple[int, ...],
    longest: int,
    rng: np.random.Generator,
) -> Array:
    if _MASK.search(name):
        return np.ones(shape, dtype)
    if _RATE.search(name):
        return np.full(shape, _SAMPLING_RATE, dtype)
    if _POSITION.search(name) and shape:
        limit = use.bound or shape[-1]
        return np.broadcast_to(np.arange(shape[-1]) % max(1, limit), shape).astype(dtype)
    if use.bound is not None and not use.size:
        return np.asarray(rng.integers(0, use.bound, shape)).astype(dtype)
    if _LENGTH.search(name) and len(shape) <= 1:
        return np.full(shape, longest, dtype)
    if dtype.itemsize == 1:
        limits = ir.DataType.from_numpy(dtype)
        low, high = int(limits.min), int(limits.max)
        return np.asarray(rng.integers(low, high + 1, shape)).astype(dtype)
    if use.mask and not use.data:
        return np.ones(shape, dtype)
    if use.size or not shape:
        return np.ones(shape, dtype)
    return np.asarray(rng.integers(0, _FREE, shape)).astype(dtype)


def working_feeds(
    model: Source, seed: int = 0, n: int = 2, *, session: ort.InferenceSession | None = None
) -> list[Feed]:
    """Return ``n`` random feeds that onnxruntime runs the model on.

    Tries sizes for the open dimensions until one works; then, if the model takes other sizes
    too, every second feed has another size along every open dimension that allows it. A run
    counts as working when it also gives finite outputs that are not empty, unless none does.

    Args:
        model: path of an ONNX file, its bytes, or any other kind that ``onnxprune.io`` loads.
        seed: the same seed gives the same feeds.
        n: number of feeds.
        session: the model, already open in onnxruntime.

    Raises:
        DataError: no size that was tried works; holds onnxruntime's answer.
        LoadError: the model cannot be read.
    """
    held = load(model).model
    in_memory = not isinstance(model, (bytes, str, os.PathLike))
    source = to_bytes(held) if in_memory and session is None else model
    trial = _Trial(held, source, seed, session)
    first = trial.first()
    second = trial.other(first)
    return [random_feeds(held, seed + i, second if i % 2 else first) for i in range(n)]


class _Trial:
    """Runs of one model on feeds of several sizes."""

    def __init__(
        self, model: ir.Model, source: Any, seed: int, session: ort.InferenceSession | None
    ) -> None:
        self.model = model
        self.seed = seed
        self.specs = [s for s in input_specs(model) if not s.optional]
        self.fixed = told_sizes(model.graph)
        self.roles = open_dims(self.specs, self.fixed)
        self.told = ""
        if session is not None:
            self.session = session
            return
        options = ort.SessionOptions()
        options.log_severity_level = 4
        source = source if isinstance(source, bytes) else os.fspath(source)
        try:
            self.session = ort.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(
                f"onnxruntime cannot load the model, so nothing can be run: {_short(error)}"
            ) from error

    def first(self) -> dict[str, int]:
        """Return sizes that work."""
        fallback = None
        for sizes in self._combinations():
            worked = self._run(sizes)
            if worked:
                return sizes
            if worked is not None and fallback is None:
                fallback = sizes
        if fallback is not None:
            return fallback
        tried = ", ".join(self.roles) or "none, all sizes are fixed"
        raise DataError(
            "no random input was found that onnxruntime runs the model on (open dimensions: "
            f"{tried}); give data of your own; onnxruntime said: {self.told}"
        )

    def _combinations(self) -> Iterator[dict[str, int]]:
        """Yield sizes for all open dimensions: one size for each sort of them, then each batch."""
        roles = sorted(set(self.roles.values()) - {BATCH})
        for batch in LADDERS[BATCH] if BATCH in self.roles.values() else (1,):
            for combination in itertools.product(*(LADDERS[r] for r in roles)):
                chosen = dict(zip(roles, combination, strict=True)) | {BATCH: batch}
                yield {key: chosen[r] for key, r in self.roles.items()}

    def other(self, first: dict[str, int]) -> dict[str, int]:
        """Return sizes that work and differ from ``first`` wherever the model allows it."""
        found = dict(first)
        for role in sorted(set(self.roles.values())):
            keys = [k for k, r in self.roles.items() if r == role]
            for size in _nearest(LADDERS[role], first[keys[0]]):
                changed = found | dict.fromkeys(keys, size)
                if self._run(changed):
                    found = changed
                    break
        return found

    def _run(self, sizes: Mapping[str, int]) -> bool | None:
        """Return None if the model does not run, else whether its outputs are of any use."""
        chosen = self.fixed | dict(sizes)
        if any(math.prod(_shape(spec, chosen)) > _MOST for spec in self.specs):
            return None
        feed = random_feeds(self.model, self.seed, sizes)
        try:
            outputs = self.session.run(None, feed)
        except Exception as error:
            self.told = self.told or _short(error)
            return None
        return all(_useful(o) for o in outputs)


def _nearest(ladder: Iterable[int], size: int) -> list[int]:
    """Return the other sizes, the next larger first: it costs little more and is as likely."""
    return sorted(set(ladder) - {size}, key=lambda s: (s < size, abs(s - size)))


def _useful(output: Any) -> bool:
    if not isinstance(output, np.ndarray) or output.dtype.kind not in "fc":
        return True
    return output.size > 0 and bool(np.isfinite(output).all())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
