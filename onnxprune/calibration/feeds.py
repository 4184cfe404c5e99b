"""Samples in: whatever holds them becomes feeds that fit the model, streamed, as often as needed.

Two layouts are understood, and told apart by the number of axes of each array:

* rows: as many axes as the input; the first one, the batch axis, counts samples;
* whole: one axis more than the input; each entry along the first is the complete input, batch
  axis and all (a recurrent state of shape [2, batch, 128], a scalar sampling rate).

A record of a loader (a Python function, an iterable, a calibration data reader) is a complete
feed if its arrays have as many axes as the inputs, a single sample if they have one less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.feed_random import random_feeds, working_feeds
from onnxprune.calibration.feed_sources import Record, Source, find_source
from onnxprune.calibration.feed_specs import (
    Array,
    Feed,
    InputSpec,
    check_names,
    fit_feed,
    input_specs,
)
from onnxprune.errors import DataError

__all__ = [
    "Feed",
    "Feeds",
    "InputSpec",
    "input_specs",
    "open_feeds",
    "random_feeds",
    "working_feeds",
]

BATCH = 8
"""Samples per feed where the model leaves the batch size open and nothing else is asked for."""


@dataclass(frozen=True)
class Feeds:
    """Feeds for one model; iterate as often as needed, nothing is held between passes.

    Attributes:
        specs: the model's inputs.
        source: where the records come from.
        batch: samples per feed where the model leaves it open; sources that already yield whole
            feeds keep their own batches.
        samples: how many samples to use at most, None for all.

    Samples left over when the model fixes a batch size that does not divide their number are
    not used.
    """

    specs: tuple[InputSpec, ...]
    source: Source
    batch: int = BATCH
    samples: int | None = None

    def batched(self, batch: int) -> Feeds:
        """Return the same feeds with another batch size."""
        return replace(self, batch=batch)

    def __iter__(self) -> Iterator[Feed]:
        """Yield feeds.

        Raises:
            DataError: a record that does not fit the model, or no sample at all.
        """
        empty = True
        for feed in self._feeds():
            empty = False
            yield fit_feed(self.specs, feed, self.source.where)
        if empty:
            fixed = _fixed_batch(self.specs)
            why = f"fewer samples than the model's fixed batch of {fixed}" if fixed else "no sample"
            raise DataError(f"{self.source.where} holds {why}; give more data")

    def _feeds(self) -> Iterator[Record]:
        left = self.samples if self.samples is not None else -1
        rows = _Rows(self)
        for record in self.source.open():
            if left == 0:
                break
            check_names(self.specs, record, self.source.where)
            if self._is_feed(record):
                yield from rows.rest()
                count = _count(record.values())
                if 0 < left < count and self._can_cut():
                    record = {n: a[:left] for n, a in record.items()}
                left = max(0, left - count) if left > 0 else left
                yield record
            else:
                taken = rows.add(record, left)
                left -= taken if left > 0 else 0
                yield from rows.full()
        yield from rows.rest()

    def _is_feed(self, record: Record) -> bool:
        """Whether a record is one complete feed, to be passed on as it is."""
        if self.source.stacked:
            return False
        fixed = _fixed_batch(self.specs)
        for spec in self.specs:
            if spec.name not in record or spec.rank is None:
                continue
            array = record[spec.name]
            if array.ndim != spec.rank:
                return False
            if fixed is not None and array.ndim and len(array) != fixed:
                return False  # another batch size than the model's: take it apart
        return True

    def _can_cut(self) -> bool:
        return all(s.dims and not isinstance(s.dims[0], int) for s in self.specs)


def _fixed_batch(specs: Iterable[InputSpec]) -> int | None:
    """Return the batch size a model fixes: the first size common to all inputs with axes."""
    first = [s.dims[0] for s in specs if s.dims]
    fixed = {d for d in first if isinstance(d, int)}
    if len(fixed) == 1 and all(isinstance(d, int) for d in first):
        return fixed.pop()
    return None


def _count(arrays: Iterable[Array]) -> int:
    """Return the number of samples in a complete feed: the common first size, else one."""
    sizes = {len(a) for a in arrays if a.ndim}
    return sizes.pop() if len(sizes) == 1 else 1


class _Rows:
    """Collects samples until there are enough for a feed."""

    def __init__(self, feeds: Feeds) -> None:
        self.feeds = feeds
        self.pieces: list[Record] = []
        self.count = 0
        self.size = feeds.batch
        self.whole: frozenset[str] = frozenset()
        self.constant: frozenset[str] = frozenset()

    def add(self, record: Record, limit: int) -> int:
        """Take the samples of a record, at most ``limit`` unless negative; return how many."""
        where = self.feeds.source.where
        whole, constant, held = set(), set(), {}
        for spec in self.feeds.specs:
            if spec.name not in record:
                continue
            array = record[spec.name]
            rank = spec.rank
            if array.ndim == 0 and not rank:
                constant.add(spec.name)
            elif rank is not None and array.ndim == rank + 1:
                whole.add(spec.name)
            elif rank is not None and array.ndim == rank - 1:
                array = array[None]
            elif rank is not None and array.ndim != rank:
                raise DataError(
                    f"{where}: input {spec.name!r} has shape {list(array.shape)}; the model takes "
                    f"{spec}, with samples on its first axis, or on an axis before it"
                )
            held[spec.name] = array
        counts = {n: len(a) for n, a in held.items() if n not in constant}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name!r}: {n}" for name, n in counts.items())
            raise DataError(f"{where}: the inputs have different numbers of samples ({told})")
        self.whole, self.constant = frozenset(whole), frozenset(constant)
        self.size = self._group_size(held)
        taken = max(counts.values(), default=1)
        if 0 <= limit < taken:
            taken = limit
            held = {n: a if n in constant else a[:limit] for n, a in held.items()}
        self.pieces.append(held)
        self.count += taken
        return taken

    def _group_size(self, held: Record) -> int:
        """Return how many samples make a feed."""
        rows = held.keys() - self.whole - self.constant
        specs = [s for s in self.feeds.specs if s.dims and s.name in rows]
        sizes = {s.dims[0] for s in specs if s.dims and isinstance(s.dims[0], int)}
        if not sizes:
            return 1 if self.whole else self.feeds.batch
        open_too = _fixed_batch(specs) is None
        if len(sizes) > 1 or (sizes != {1} and (open_too or self.whole)):
            told = ", ".join(f"{s.name!r} {s}" for s in specs)
            raise DataError(
                f"{self.feeds.source.where}: the first axis of the inputs ({told}) is not one "
                "batch axis; store each input whole, with a new first axis that counts samples"
            )
        (size,) = sizes
        assert isinstance(size, int)
        return size

    def full(self) -> Iterator[Record]:
        """Yield as many complete groups as there are."""
        if self.count < self.size:
            return
        joined = self._joined()
        start = 0
        while self.count - start >= self.size:
            yield self._group(joined, start, self.size)
            start += self.size
        self.count -= start
        rest = {n: a if n in self.constant else a[start:] for n, a in joined.items()}
        self.pieces = [rest] if self.count else []

    def rest(self) -> Iterator[Record]:
        """Yield what is left as a smaller group, if the model takes any batch size."""
        yield from self.full()
        if self.count and self.size == self.feeds.batch and _fixed_batch(self.feeds.specs) is None:
            yield self._group(self._joined(), 0, self.count)
        self.pieces, self.count = [], 0

    def _joined(self) -> Record:
        first = self.pieces[0]
        if len(self.pieces) == 1:
            return first
        return {
            n: first[n] if n in self.constant else np.concatenate([p[n] for p in self.pieces])
            for n in first
        }

    def _group(self, joined: Record, start: int, size: int) -> Record:
        return {
            n: a if n in self.constant else a[start] if n in self.whole else a[start : start + size]
            for n, a in joined.items()
        }


def open_feeds(
    source: Any,
    model_inputs: ir.Model | Iterable[ir.Value | InputSpec],
    samples: int | None = None,
    *,
    batch: int = BATCH,
) -> Feeds:
    """Return the feeds that ``source`` holds for a model.

    Args:
        source: a ``.npz`` file (arrays named by input, first axis samples), a folder of ``.npz``
            or ``.npy`` files, ``file.py:function`` that yields feeds or samples, an onnxruntime
            ``CalibrationDataReader``, a mapping from input names to arrays, or an iterable of
            feeds or samples. What can be read only once (a generator, a reader without
            ``rewind``) is kept in memory for the next pass. ``Feeds`` are returned as they are,
            for the new model.
        model_inputs: the model, or its inputs.
        samples: how many samples to use at most.
        batch: samples per feed where the model leaves the batch size open.

    Raises:
        DataError: nothing usable is there. What does not fit the model shows when it is read:
            names, types (only casts that lose nothing), ranks and fixed sizes are checked.
    """
    specs = tuple(input_specs(model_inputs))
    if samples is not None and samples < 1:
        raise DataError(f"{samples} samples were asked for; ask for one or more")
    if isinstance(source, Feeds):
        return replace(source, specs=specs, samples=samples or source.samples)
    return Feeds(specs, find_source(source, list(specs)), max(1, batch), samples)
