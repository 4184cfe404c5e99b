"""Every node test of the onnx backend suite as the filling of a sandwich that gets pruned.

    python benchmarks/corpus.py [--out build/corpus] [--only RE] [--every N] [--offset K]

Each test of ``onnx.backend.test`` is a small graph, mostly one operator in one form. Its floating
inputs are made by matrix products, its floating outputs read by others: along every axis of the
first input in turn (a Transpose moves the axis to the end and back), with convolutions as well
where the rank allows, with the other floating inputs as constants or as computed values too. The
inputs are those of the test, so that logarithms, indices and probabilities stay sensible.
Half the units of every group are removed at random, and the outcome judged from outside: the
shrunk model must compute what the masked dense model computes, by onnxruntime, or by onnx's
reference evaluator where onnxruntime has no kernel.

* propagates: units in front of the operator went, and the two models agree;
* freezes: none went, and a reason is given for the units in front;
* refuses: an error of onnxprune's own says why;
* unjudged: neither runtime runs the dense sandwich; the prune went through;
* wrong: anything else.

Prints a line for what is wrong and a summary; with ``--out`` writes corpus.json and corpus.md. The
exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.proof.equivalence import relative_error
from onnxprune.rules.base import RULES

Array = npt.NDArray[Any]
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
OUTCOMES = ("propagates", "freezes", "refuses", "unjudged", "wrong")
LIMIT = {TensorProto.FLOAT: 1e-3, TensorProto.DOUBLE: 1e-3, TensorProto.FLOAT16: 5e-2}


@dataclass(frozen=True)
class Sandwich:
    """One graph to prune.

    Attributes:
        name: of the test, with the variant.
        op: the operator, or the test's name for what expands a function.
        model: the graph.
        feeds: an input of it.
        limit: largest relative error of its types.
    """

    name: str
    op: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    limit: float


@dataclass
class Bread:
    """The nodes and weights put around a test."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)

    def constant(self, name: str, array: Array) -> str:
        """Add an initializer."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def moved(self, name: str, out: str, rank: int, axis: int) -> None:
        """Swap an axis with the last one."""
        perm = list(range(rank))
        perm[axis], perm[-1] = perm[-1], perm[axis]
        self.nodes.append(helper.make_node("Transpose", [name], [out], perm=perm))

    def before(self, name: str, array: Array, kind: int, axis: int, conv: bool) -> None:
        """Compute ``name`` by a product that makes its coordinates along ``axis``."""
        size = array.shape[axis]
        mix = np.eye(size)  # so that the operator sees what the test gives it
        feed = f"{name}.fed"
        if conv:
            weight = self.constant(f"{name}.make", _pixels(mix.astype(array.dtype), array.ndim))
            self.nodes.append(helper.make_node("Conv", [feed, weight], [name]))
            given = array
        else:
            given = np.swapaxes(array, axis, -1)
            weight = self.constant(f"{name}.make", mix.astype(array.dtype))
            last = axis == array.ndim - 1
            made = name if last else f"{name}.made"
            self.nodes.append(helper.make_node("MatMul", [feed, weight], [made]))
            if not last:
                self.moved(made, name, array.ndim, axis)
        self.feeds[feed] = np.ascontiguousarray(given)
        self.inputs.append(helper.make_tensor_value_info(feed, kind, given.shape))

    def after(self, name: str, shape: tuple[int, ...], dtype: Any, axis: int, conv: bool) -> str:
        """Read ``name`` by a product that sums over ``axis``; returns the result's name."""
        size, out = shape[axis], f"{name}.read"
        mix = self.rng.uniform(-1, 1, (size, 3)).astype(dtype)
        weight = f"{name}.use"
        if conv:
            self.constant(weight, _pixels(mix, len(shape)))
            self.nodes.append(helper.make_node("Conv", [name, weight], [out]))
            return out
        self.constant(weight, mix)
        last = axis == len(shape) - 1
        if not last:
            self.moved(name, f"{name}.moved", len(shape), axis)
        source = name if last else f"{name}.moved"
        self.nodes.append(helper.make_node("MatMul", [source, weight], [out]))
        return out


def _pixels(matrix: Array, rank: int) -> Array:
    """Return a matrix [in, out] as the weight of a convolution of kernel size one."""
    pixels: Array = matrix.T.reshape(matrix.shape[::-1] + (1,) * (rank - 2))
    return pixels


def _kind(array: Any) -> int | None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "f":
        return None
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def _float(array: Any) -> TypeGuard[Array]:
    return _kind(array) in FLOATS and array.ndim >= 1 and 1 < array.size <= 4096


def sandwiches(case: Any) -> Iterator[Sandwich]:
    """Yield the variants of one backend test."""
    if case.model is None or not case.data_sets:
        return
    given = dict(zip((v.name for v in case.model.graph.input), case.data_sets[0][0], strict=False))
    first = next((a for a in given.values() if _float(a)), None)
    if first is None:
        return
    others = any(a is not first and _float(a) for a in given.values())
    for axis in range(first.ndim):
        if first.shape[axis] == 1:
            continue
        for conv in (False, True):
            if conv and (axis != 1 or not 3 <= first.ndim <= 5 or first.dtype != np.float32):
                continue
            for every in (False, True) if others else (False,):
                made = _build(case, given, axis - first.ndim, conv, every)
                if made is not None:
                    yield made


def _build(
    case: Any, given: Mapping[str, Any], axis: int, conv: bool, every: bool
) -> Sandwich | None:
    graph = case.model.graph
    variant = f"{case.name}[{axis}{',conv' if conv else ''}{',all' if every else ''}]"
    bread = Bread(np.random.default_rng(zlib.crc32(variant.encode())))
    done = False
    for info in graph.input:
        array: Any = given.get(info.name)
        if _float(array) and (every or not done) and -axis <= array.ndim and array.shape[axis] > 1:
            done = True
            kind = _kind(array)
            assert kind is not None
            here = conv and array.ndim >= 3 and axis + array.ndim == 1
            bread.before(info.name, array, kind, axis + array.ndim, here)
        elif isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
            bread.constant(info.name, np.asarray(array))
        else:
            bread.inputs.append(info)
            bread.feeds[info.name] = array
    front = list(bread.nodes)
    bread.nodes = []
    outputs = []
    for info, array in zip(graph.output, case.data_sets[0][1], strict=False):
        if _float(array):
            at = axis if -axis <= array.ndim else -1
            here = conv and array.ndim >= 3 and at + array.ndim == 1
            read = bread.after(info.name, array.shape, array.dtype, at % array.ndim, here)
            kind = int(helper.np_dtype_to_tensor_dtype(array.dtype))
            outputs.append(helper.make_tensor_value_info(read, kind, None))
        else:
            outputs.append(info)
    kinds = {_kind(a) for a in given.values()} & FLOATS
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    body = helper.make_graph(
        [*front, *graph.node, *bread.nodes], graph.name, bread.inputs, outputs,
        [*graph.initializer, *bread.weights],
    )  # fmt: skip
    model.graph.CopyFrom(body)
    if not any(i.domain in ("", "ai.onnx") for i in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", 17))
    op = graph.node[0].op_type if len(graph.node) == 1 else re.sub("^test_", "", case.name)
    domain = graph.node[0].domain
    op = f"{domain}::{op}" if domain and len(graph.node) == 1 else op
    return Sandwich(variant, op, model, bread.feeds, max(LIMIT[k] for k in kinds if k in LIMIT))


# -- judging ------------------------------------------------------------------------------------


def _runtime(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def _reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(None, dict(feeds)))


def _outputs(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> tuple[Any, list[Any]] | None:
    """Return (runner, outputs) by the first runtime that runs the model, None when none does."""
    for runner in (_runtime, _reference):
        try:
            with np.errstate(all="ignore"):
                return runner, runner(model, feeds)
        except Exception:  # each has its own errors for what it does not implement
            continue
    return None


def _finite(array: Any) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return True
    return bool(np.isfinite(array).all())


def _differences(want: list[Any], have: list[Any], limit: float) -> list[str]:
    told = []
    for i, (a, b) in enumerate(zip(want, have, strict=True)):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            error = relative_error(a, b)
            if not error <= limit:
                told.append(f"output {i} is off by {error:.2g}")
        elif type(a) is not type(b):
            told.append(f"output {i} is {type(b).__name__}, not {type(a).__name__}")
    return told


def judge(sandwich: Sandwich) -> tuple[str, str]:
    """Return (outcome, why) of pruning one sandwich."""
    seed = zlib.crc32(sandwich.name.encode()) % 1000
    try:
        result = onnxprune.prune(
            sandwich.model, "channel", 0.5, criterion="random", seed=seed, proof=False
        )
        masked = onnxprune.prune(sandwich.model, plan=result.plan, mask_only=True, proof=False)
    except OnnxPruneError as error:
        return "refuses", str(error)
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {error}"
    made = {n for n in result.plan.kept if n.endswith(".make")}
    frozen = [row["why"] for row in result.report["frozen"]]
    found = _outputs(sandwich.model, sandwich.feeds)
    if found is not None and not all(_finite(array) for array in found[1]):
        return "unjudged", "the dense outputs are not finite, and 0 times infinity is not absence"
    if found is not None:
        runner, _ = found
        try:
            with np.errstate(all="ignore"):
                want = runner(masked.model, sandwich.feeds)
                have = runner(result.model, sandwich.feeds)
            again = runner(masked.model, sandwich.feeds)
        except Exception as error:
            return "wrong", f"does not run any more: {' '.join(str(error).split())[:200]}"
        if _differences(want, again, sandwich.limit):
            return "unjudged", "the operator is random"
        told = _differences(want, have, sandwich.limit)
        if told:
            return "wrong", "; ".join(told)
    if found is None:
        return "unjudged", "; ".join(dict.fromkeys(frozen))[:200]
    if made:
        return "propagates", ""
    return ("freezes", "; ".join(dict.fromkeys(frozen))[:200]) if frozen else ("wrong", "no reason")


def collect() -> list[Any]:
    """Return the node tests of the installed onnx package, sorted by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda case: str(case.name))


def _table(rows: list[dict[str, str]]) -> dict[str, Any]:
    ops: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        ops[row["op"]][row["outcome"]] += 1
    single = {op: counts for op, counts in ops.items() if not op[:1].islower() or "::" in op}
    known = {f"{d}::{op}" if d else op for d, op in RULES}
    return {
        "sandwiches": dict(Counter(row["outcome"] for row in rows)),
        "operators": len(single),
        "operators_with_rule": sum(op in known for op in single),
        "operators_frozen_by_default": sorted(op for op in single if op not in known),
        "operators_that_propagate": sum(bool(c["propagates"]) for c in single.values()),
        "by_operator": {op: dict(counts) for op, counts in sorted(ops.items())},
    }


def _markdown(summary: dict[str, Any], rows: list[dict[str, str]]) -> str:
    lines = ["# The onnx backend corpus as sandwiches", ""]
    lines += [f"* {k}: {v}" for k, v in summary.items() if k != "by_operator"]
    lines += ["", "| operator | " + " | ".join(OUTCOMES) + " |", "|---|" + "---|" * len(OUTCOMES)]
    for op, counts in summary["by_operator"].items():
        cells = " | ".join(str(counts.get(o, "")) for o in OUTCOMES)
        lines.append(f"| {op} | {cells} |")
    bad = [row for row in rows if row["outcome"] in ("wrong", "refuses")]
    lines += ["", *(f"* {r['outcome']} {r['name']}: {r['why']}" for r in bad)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="regular expression on names of tests")
    parser.add_argument("--every", type=int, default=1, help="only each Nth test")
    parser.add_argument("--offset", type=int, default=0)
    given = parser.parse_args()
    ort.set_default_logger_severity(4)
    cases = [c for c in collect() if re.search(given.only, c.name)][given.offset :: given.every]
    rows: list[dict[str, str]] = []
    for case in cases:
        for sandwich in sandwiches(case):
            outcome, why = judge(sandwich)
            rows.append({"name": sandwich.name, "op": sandwich.op, "outcome": outcome, "why": why})
            if outcome in ("wrong", "refuses"):
                print(f"{outcome}: {sandwich.name}: {why}", flush=True)
    summary = _table(rows)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        told = {"summary": summary, "rows": rows}
        (given.out / "corpus.json").write_text(json.dumps(told, indent=1) + "\n")
        (given.out / "corpus.md").write_text(_markdown(summary, rows))
    for key, value in summary.items():
        if key != "by_operator":
            print(f"{key}: {value}")
    return 1 if any(row["outcome"] == "wrong" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
