"""Comparing two models on data: is the second a stand-in for the first, and how close is it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.calibration.feeds import Feed, open_feeds, working_feeds
from onnxprune.errors import DataError, UsageError
from onnxprune.formats import convert_model
from onnxprune.formats.weights import DOMAIN, STANDARD
from onnxprune.io import Source
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.proof.metric import load_metric, measure
from onnxprune.proof.similarity import Array, Similarity
from onnxprune.report.facts import interface
from onnxprune.runtime import explain, session

RANDOM_FEEDS = 4
RUNTIMES = ("cpu", "sparse")
Given = Source | io.Loaded


@dataclass(frozen=True)
class Thresholds:
    """What the second model has to reach.

    Attributes:
        max_error: largest relative error that is allowed, in units of the output's spread.
        min_agreement: smallest share of equal top-1 classes that is allowed, 0..1.
    """

    max_error: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: a threshold that cannot be meant.
        """
        if self.max_error is not None and not self.max_error >= 0:
            raise UsageError(f"max error is {self.max_error:g}: give a number from 0")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"min agreement is {self.min_agreement:g}: give a share, from 0 to 1")

    def misses(self, outputs: Mapping[str, Similarity]) -> list[str]:
        """Return a sentence for every output that misses a threshold."""
        told = []
        for name, found in outputs.items():
            error, share = found.max_rel_error, found.agreement
            if self.max_error is not None and not error <= self.max_error:
                told.append(
                    f"output {name!r} has a relative error of {error:.3g}, above {self.max_error:g}"
                )
            if self.min_agreement is not None and share is not None and share < self.min_agreement:
                told.append(
                    f"output {name!r} agrees on {share:.2%} of the top-1 classes, below "
                    f"{self.min_agreement:.2%}"
                )
        if self.min_agreement is not None and all(s.agreement is None for s in outputs.values()):
            told.append("no output has scores of classes, so there is no top-1 agreement to reach")
        return told


class _CannotRun(Exception):
    """The model in question does not load or does not run; the text says why."""


@dataclass(frozen=True)
class _Runner:
    """A session that says whose it is when something goes wrong."""

    who: str
    session: Any

    @classmethod
    def open(cls, who: str, model: Any, runtime: str, threads: int | None) -> _Runner:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            made = session(model, threads, provider=runtime, session_options=options)
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            packed = "ai.onnxprune" in str(error)  # and no library: its operators run on cpu, too
            hint = (
                "; packed weights need the sparse runtime, see onnxprune doctor" if packed else ""
            )
            raise _CannotRun(f"{who} does not load: {_short(error)}{hint}") from error
        return cls(who, made)

    def run(self, names: Sequence[str], feed: Feed) -> list[Array]:
        wanted = {i.name for i in self.session.get_inputs()}
        try:
            held = {k: v for k, v in feed.items() if k in wanted}
            return [np.asarray(x) for x in self.session.run(list(names), held)]
        except Exception as error:
            sizes = ", ".join(f"{k} {list(v.shape)}" for k, v in feed.items())
            raise _CannotRun(f"{self.who} does not run on {sizes}: {_short(error)}") from error


def validate_models(
    dense: Given,
    pruned: Given,
    *,
    data: Any = None,
    samples: int | None = None,
    seed: int = 0,
    thresholds: Thresholds | None = None,
    runtime: str = "cpu",
    threads: int | None = None,
    layers: bool = False,
    metric: str | None = None,
) -> dict[str, Any]:
    """Run both models on the same inputs and compare every output.

    Args:
        dense: the reference, run on onnxruntime's CPU provider.
        pruned: the model in question.
        data: what :func:`.calibration.feeds.open_feeds` accepts; None for random inputs.
        samples: how many samples of ``data`` (None: all) or random feeds (None:
            :data:`RANDOM_FEEDS`). Random feeds have two sizes along dimensions left open.
        seed: of the random inputs.
        thresholds: what must be reached; None for nothing.
        runtime: what runs ``pruned``: ``cpu`` or ``sparse``. With ``sparse``, the CPU provider runs
            it as well (packed weights made dense), and ``provider`` of the report says how far the
            two are apart on the very same model.
        threads: of all sessions; None leaves it to onnxruntime.
        layers: also compare the outputs of all layers that both models name alike.
        metric: ``file.py:function``, called with a session and the feeds for each model.

    Returns:
        JSON-ready report; every key is described in ``docs/report.md``. ``passed`` is False when
        the interfaces differ, the second model cannot be run, or a threshold is missed.

    Raises:
        LoadError, UnsupportedError: a model cannot be read.
        DataError: the samples do not fit, or the dense model does not run on them.
        UsageError: unknown runtime, thresholds or a metric that cannot be meant.
        RuntimeUnavailableError: ``sparse`` cannot be used here.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}; choose from: {', '.join(RUNTIMES)}")
    started = time.perf_counter()
    own = None if metric is None else load_metric(metric)
    a, b = io.load(dense), io.load(pruned)
    failures = interface_differences(a.model, b.model)
    same = not failures
    there = {v.name for v in b.model.graph.outputs}
    common = [v.name or "" for v in a.model.graph.outputs if v.name in there]
    inner = _watch(a.model, b.model) if layers else []
    found = {name: Similarity(classes=name in common) for name in (*common, *inner)}
    across = {name: Similarity(classes=name in common) for name in found}
    sizes: list[dict[str, list[int]]] = []
    values: dict[str, dict[str, float]] = {}
    feeds = 0
    right: _Runner | None = None
    try:
        left = _Runner.open("the dense model", _runnable(dense, a, layers), "cpu", threads)
    except _CannotRun as error:
        raise DataError(str(error)) from error
    try:
        right = _Runner.open("the pruned model", _runnable(pruned, b, layers), runtime, threads)
        check = _on_cpu(pruned, b, layers, threads) if runtime != "cpu" else None
        for feed, is_data in _feeds(dense, a, data, samples, seed):
            want = _reference(left, list(found), feed)
            have = right.run(list(found), feed)
            for name, x, y in zip(found, want, have, strict=True):
                if is_data:
                    found[name].add(x, y)
                elif name in common and x.shape != y.shape:
                    failures.append(
                        f"output {name!r} is {list(y.shape)} instead of "
                        f"{list(x.shape)} at other sizes of the inputs"
                    )
            if check is not None:
                for name, x, y in zip(found, check.run(list(found), feed), have, strict=True):
                    across[name].add(x, y)
            feeds += is_data
            shape = {name: list(array.shape) for name, array in feed.items()}
            if shape not in sizes:
                sizes.append(shape)
        if own is not None and metric is not None:
            held = [feed for feed, is_data in _feeds(dense, a, data, samples, seed) if is_data]
            name = metric.rpartition(":")[2]
            before, after = (measure(name, own, r.session, held) for r in (left, right))
            values = {k: {"dense": before[k], "pruned": after[k]} for k in before if k in after}
    except _CannotRun as error:
        failures.append(str(error))
    outputs = {name: found[name] for name in common}
    if feeds:
        failures += (thresholds or Thresholds()).misses(outputs)
    return {
        "passed": not failures,
        "failures": failures,
        "interface_same": same,
        "outputs": {name: s.as_dict() for name, s in outputs.items()},
        "layers": {name: found[name].as_dict() for name in inner},
        "metric": values,
        "runtime": runtime,
        "provider": _provider(right, across, common, inner) if right and runtime != "cpu" else None,
        "data": "random" if data is None else str(data),
        "feeds": feeds,
        "input_sizes": sizes,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _on_cpu(given: Given, loaded: io.Loaded, changed: bool, threads: int | None) -> _Runner:
    """Open the same model on the CPU provider, packed weights dense again."""
    if not any(node.domain == DOMAIN for node in loaded.model.graph.all_nodes()):
        runnable = _runnable(given, loaded, changed)
        return _Runner.open("the pruned model on the CPU provider", runnable, "cpu", threads)
    restored = loaded.model.clone()
    convert_model(restored, "dense")
    return _Runner.open("the pruned model, made dense", restored, "cpu", threads)


def _provider(
    runner: _Runner, across: Mapping[str, Similarity], outputs: list[str], inner: list[str]
) -> dict[str, Any]:
    """Return how the sparse provider compares with the CPU provider on the very same model."""
    decisions = explain(runner.session)
    return {
        "claimed": sum(d.claimed for d in decisions),
        "nodes": len(decisions),
        "outputs": {name: across[name].as_dict() for name in outputs},
        "layers": {name: across[name].as_dict() for name in inner},
    }


def interface_differences(dense: ir.Model, pruned: ir.Model) -> list[str]:
    """Return a sentence for everything about inputs and outputs that is not the same."""
    told = []
    for direction, word in (("in", "input"), ("out", "output")):
        a, b = (
            {name: (type_, dims) for way, name, type_, dims in interface(m) if way == direction}
            for m in (dense, pruned)
        )
        told += [f"{word} {name!r} is missing" for name in a if name not in b]
        told += [f"{word} {name!r} is new" for name in b if name not in a]
        for name in a:
            if name in b and a[name] != b[name]:
                was, now = (f"{t} [{', '.join(d)}]" for t, d in (a[name], b[name]))
                told.append(f"{word} {name!r} was {was} and is {now}")
        if list(a) != list(b) and sorted(a) == sorted(b):
            told.append(f"the {word}s are in another order")
    return told


def _reference(runner: _Runner, names: list[str], feed: Feed) -> list[Array]:
    try:
        return runner.run(names, feed)
    except _CannotRun as error:
        raise DataError(str(error)) from error


def _feeds(
    given: Given, loaded: io.Loaded, data: Any, samples: int | None, seed: int
) -> Iterable[tuple[Feed, bool]]:
    """Yield feeds, and whether they count or only try other sizes."""
    source: Source = loaded.model if isinstance(given, io.Loaded) else given
    if data is None:
        for feed in working_feeds(source, seed, samples or RANDOM_FEEDS):
            yield feed, True
        return
    for feed in open_feeds(data, loaded.model, samples):
        yield feed, True
    if any(not isinstance(d, int) for v in loaded.model.graph.inputs for d in v.shape or ()):
        try:
            others = working_feeds(source, seed, 2)
        except DataError:  # random inputs do not suit every model; the data did
            return
        for feed in others:
            yield feed, False


def _runnable(given: Given, loaded: io.Loaded, changed: bool) -> Any:
    if not changed and isinstance(given, (str, os.PathLike, bytes)):
        return given
    return loaded.model


def _watch(dense: ir.Model, pruned: ir.Model) -> list[str]:
    """Make the outputs of layers that both models name alike outputs of both; return the names."""
    held = []
    for model in (dense, pruned):
        InferShapes().run(model, Context())
        outputs = set(model.graph.outputs)
        held.append(
            {
                node.outputs[0].name: node.outputs[0]
                for node in model.graph
                if _has_weight(node)
                and node.outputs[0].type is not None
                and node.outputs[0] not in outputs
            }
        )
    names = [name for name in held[0] if name and name in held[1]]
    for model, values in zip((dense, pruned), held, strict=True):
        model.graph.outputs.extend(values[name] for name in names)
    return [name for name in names if name]


def _has_weight(node: ir.Node) -> bool:
    if node.domain == DOMAIN:
        return len(node.outputs) == 1 and node.op_type in STANDARD
    constants = (v.const_value for v in node.inputs if v is not None)
    return len(node.outputs) == 1 and any(t is not None and len(t.shape) > 1 for t in constants)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
