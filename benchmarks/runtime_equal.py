"""Does the sparse provider compute what the CPU provider computes? On every network, every pattern.

Every network of ``suite.py`` at every sparsity runs on both providers on random inputs (two sizes
where the model leaves sizes open). An output is right when its largest error, relative to the
largest value of that output, is at most 1e-5, widened by sqrt(K) / 32 for sums of more than 1024
terms. Some networks amplify any rounding (a sigmoid of sums of some hundreds, say), and then two
providers differ although neither is wrong. So where an output exceeds the limit both are held
against the exact result, the network evaluated in double precision: it still counts as right
(``noise``) if we are within the limit of that, or at most twice as far from it as the CPU provider
gets. How far that gets is seen on the same input, with and without its graph optimisations and,
eight times, with every weight moved by one unit in the last place at random (a sum in another order
is the exact sum of weights moved by up to as many units as it has terms: Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1).

Quantised networks must give the same bits. Where they do not, all quantised values inside are seen
to: the first tensor that differs may do so in one value of a thousand and by one step, which is how
sums that the CPU provider rounds and integer ones fall on two sides of a half (``step``). What
follows from that inside the network may be more.

    python benchmarks/runtime_equal.py [--only RE] [--kinds u90,2:4] [--configs default,force]
    python benchmarks/runtime_equal.py --models FOLDER    # files NAME.KIND.onnx instead

Exit code 1 and a line for each wrong output, and for each session that cannot be made or run where
the CPU provider's can. Configurations: default options; ``force``, which claims all that can be
computed; the same with the kernels of older processors; two threads; no regions; weights packed by
``onnxprune convert --format auto``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent))

import suite
from exact import exact_outputs

from onnxprune import io, runtime
from onnxprune.calibration.feeds import working_feeds
from onnxprune.passes.base import Context
from onnxprune.passes.emit import Emit

Array = NDArray[Any]

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "force": {"force": True},
    "avx2": {"force": True, "isa": "avx2"},
    "scalar": {"force": True, "isa": "scalar"},
    "two": {"force": True, "threads": 2},
    "chains": {"force": True, "regions": False},
    "packed": {"packed": True},
}

#: What the kernels of older processors and the other configurations are tried on by default.
SUBSET = ("u0", "u90", "b4x1_90", "2:4")


@dataclass
class Verdict:
    """The worst output of one comparison.

    Attributes:
        error: largest error relative to the CPU provider's output, infinite where shapes, types or
            NaN differ.
        limit: what it may be.
        exact: our distance from the exact result; NaN where nobody had to ask.
        noise: the CPU provider's largest distance from it, likewise.
        where: the output's name.
        quantised: whether the network is.
        steps: by how many quantisation steps the first tensor inside differs that does; NaN where
            nobody had to ask.
        share: in what share of its values (0 for a single one).
    """

    error: float = 0.0
    limit: float = 1e-5
    exact: float = float("nan")
    noise: float = float("nan")
    where: str = ""
    quantised: bool = False
    steps: float = float("nan")
    share: float = float("nan")

    @property
    def right(self) -> bool:
        """Within the limit, or as near the exact result as can be asked."""
        if self.quantised:
            return self.error == 0 or (self.steps <= 1 and self.share <= 1e-3)
        return self.error <= self.limit or self.exact <= max(self.limit, 2 * self.noise)


def relative_error(actual: Array, expected: Array) -> float:
    """Largest error relative to the largest finite expected value; infinite where kinds differ."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    odd = ~np.isfinite(e)
    if not np.array_equal(a[odd], e[odd], equal_nan=True) or not np.isfinite(a[~odd]).all():
        return float("inf")
    if not (~odd).any():
        return 0.0
    scale = float(np.abs(e[~odd]).max())
    error = float(np.abs(a[~odd] - e[~odd]).max())
    return error / scale if scale > 0 else (0.0 if error == 0 else float("inf"))


def cpu_session(data: bytes, optimised: bool = True) -> Any:
    """A session on the CPU provider, one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(data, options, ["CPUExecutionProvider"])


def weights_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All fp32 tensors of two and more axes, those of Constant nodes and of bodies too."""
    held = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            held += [attribute.t] if attribute.type == onnx.AttributeProto.TENSOR else []
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from weights_of(attribute.g)
    yield from (t for t in held if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) >= 2)


def moved(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy with every weight that is not zero one unit in the last place up or down."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    rng = np.random.default_rng(seed)
    for tensor in weights_of(out.graph):
        values = numpy_helper.to_array(tensor)
        side = np.where(rng.random(values.shape) < 0.5, np.inf, -np.inf).astype(np.float32)
        other = np.where(values == 0, values, np.nextafter(values, side))
        tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
    return out


class Reference:
    """What the CPU provider answers, and how much it can be trusted."""

    def __init__(self, model: onnx.ModelProto, seed: int = 0) -> None:
        self.model = model
        self.data = model.SerializeToString()
        self.feeds = working_feeds(self.data, seed, 2)
        self.names = [v.name for v in model.graph.output]
        session = cpu_session(self.data)
        self.expected = [session.run(self.names, dict(feed)) for feed in self.feeds]
        self.limit = 1e-5 * max(1.0, suite.reduction(model) ** 0.5 / 32)
        self.quantised = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
        self._exact: list[list[Array]] = []
        self._others: list[list[list[Array]]] = []

    def look_closer(self, verdict: Verdict, actual: Array, feed: int, output: int) -> None:
        """Fill in how far we and the CPU provider are from the exact result."""
        if not self._exact:
            sessions = [cpu_session(self.data, optimised=False)]
            sessions += [
                cpu_session(moved(self.model, seed).SerializeToString()) for seed in range(1, 9)
            ]
            self._others = [[s.run(self.names, dict(f)) for f in self.feeds] for s in sessions]
            self._exact = [self._result(f) for f in range(len(self.feeds))]
        exact = self._exact[feed][output]

        def distance(values: Array) -> float:
            return relative_error(values.astype(exact.dtype), exact)

        verdict.exact = distance(actual)
        verdict.noise = max(distance(o[feed][output]) for o in (self.expected, *self._others))

    def look_inside(self, verdict: Verdict, config: Mapping[str, Any], feed: int) -> None:
        """Fill in how the first quantised tensor that differs does."""
        shown = onnx.ModelProto()
        shown.CopyFrom(self.model)
        names = suite.show_quantised(shown)
        given = dict(self.feeds[feed])
        data = shown.SerializeToString()
        expected = cpu_session(data).run(names, given)
        actual = session_of(data, config).run(names, given)
        verdict.steps = verdict.share = 0.0
        for name, a, e in zip(names, actual, expected, strict=True):
            apart = np.abs(a.astype(np.int64) - e.astype(np.int64))
            if apart.any():
                verdict.where, verdict.steps = name, float(apart.max())
                count = int(np.count_nonzero(apart))
                verdict.share = count / apart.size if count > 1 else 0.0
                return

    def _result(self, feed: int) -> list[Array]:
        """The exact outputs; where nothing computes them, the middle of the CPU provider's."""
        try:
            return exact_outputs(self.model, dict(self.feeds[feed]))
        except Exception:  # an operator that onnx's own evaluator gets wrong
            given = zip(self.expected[feed], *(other[feed] for other in self._others), strict=True)
            return [np.mean([v.astype(np.float64) for v in values], axis=0) for values in given]

    def judge(self, session: Any, config: Mapping[str, Any]) -> Verdict:
        """Compare every output on every feed; the worst one."""
        worst = Verdict(limit=self.limit, quantised=self.quantised)
        for f, feed in enumerate(self.feeds):
            for o, actual in enumerate(session.run(self.names, dict(feed))):
                verdict = Verdict(
                    relative_error(actual, self.expected[f][o]),
                    self.limit,
                    where=self.names[o],
                    quantised=self.quantised,
                )
                if self.quantised and 0 < verdict.error < float("inf"):
                    self.look_inside(verdict, config, f)
                elif self.limit < verdict.error < float("inf"):
                    self.look_closer(verdict, actual, f, o)
                if (verdict.right, -verdict.error) < (worst.right, -worst.error):
                    worst = verdict
        return worst


def session_of(data: bytes, config: Mapping[str, Any]) -> Any:
    """A session on the sparse provider."""
    options = dict(config)
    data = packed(data) if options.pop("packed", False) else data
    return runtime.session(data, options.pop("threads", 1), **options)


def packed(data: bytes) -> bytes:
    """The model with every weight in its smallest format."""
    result = Emit("auto", 0.0, "", False, False).run(io.load(data).model, Context())
    return io.to_bytes(result.model)


def main() -> int:
    """Compare; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="compare the providers on every network")
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--kinds", default=",".join(suite.KINDS))
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--subset", default=",".join(SUBSET), help="kinds of the rarer configs")
    parser.add_argument("--models", type=Path, help="instead: files NAME.KIND.onnx below it")
    given = parser.parse_args()
    configs, subset = given.configs.split(","), given.subset.split(",")
    compared = wrong = noisy = 0
    started = time.perf_counter()
    worst = 0.0
    if given.models:
        variants = suite.saved(given.models, given.only)
    else:
        variants = suite.variants(given.only, tuple(given.kinds.split(",")))
    for name, kind, model in variants:
        try:
            reference = Reference(suite.show_logits(model))
        except Exception as error:  # whatever onnxruntime raises
            print(f"{name} {kind}: not on the CPU provider either: {error}", flush=True)
            continue
        line = []
        for config in configs:
            if config not in ("default", "force") and kind not in subset:
                continue
            compared += 1
            try:
                session = session_of(reference.data, CONFIGS[config])
                verdict = reference.judge(session, CONFIGS[config])
            except Exception as error:  # whatever onnxruntime raises
                wrong += 1
                line.append(f"{config} WRONG: {error}")
                continue
            decisions = runtime.explain(session)
            claimed = sum(d.claimed for d in decisions)
            within = verdict.error <= (0 if verdict.quantised else verdict.limit)
            near = " step" if verdict.quantised else " noise"
            mark = "" if within else near if verdict.right else " WRONG"
            noisy += mark in (" noise", " step")
            wrong += mark == " WRONG"
            worst = max(worst, verdict.error if not mark else 0.0)
            line.append(f"{config} {verdict.error:.1e} ({claimed}/{len(decisions)}){mark}")
            if mark:
                line[-1] += (
                    f" at {verdict.where}: {verdict.steps:.0f} steps in {verdict.share:.1e}"
                    if verdict.quantised
                    else f" at {verdict.where}: limit {verdict.limit:.1e}, "
                    f"from exact {verdict.exact:.1e}, CPU {verdict.noise:.1e}"
                )
        print(f"{name} {kind}: " + "; ".join(line), flush=True)
    print(
        f"{compared} comparisons in {time.perf_counter() - started:.0f} s: {wrong} wrong, {noisy} "
        f"as near the exact result as the CPU provider, the others at most {worst:.1e} apart"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
