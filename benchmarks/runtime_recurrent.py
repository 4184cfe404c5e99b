"""Recurrent layers on the sparse provider against dense onnxruntime, in one process, interleaved.

    python benchmarks/runtime_recurrent.py [--only RE] [--kinds u80,u90] [--threads 1,2]

LSTM and GRU layers as speech, text recognition and language networks have them, with random
weights pruned to every kind (see ``networks.prune``), for one sequence or a few, of a few lengths.
Speed is the median over the rounds of dense time / our time. ``-``: not claimed.
"""
# bench: make

from __future__ import annotations

import argparse
import re
from functools import partial

import numpy as np
import onnx
from networks import prune
from onnx import TensorProto, helper, numpy_helper
from timing import ratio, rounds

from onnxprune import runtime

#: Name, operator, inputs, hidden units, directions.
LAYERS = (
    ("voice activity", "LSTM", 128, 128, 1),
    ("language model", "LSTM", 256, 256, 1),
    ("large language model", "LSTM", 512, 512, 1),
    ("text recognition", "LSTM", 512, 256, 2),
    ("noise suppression", "GRU", 400, 400, 1),
    ("pronunciation", "GRU", 256, 256, 1),
)


def layer(op: str, inputs: int, hidden: int, directions: int) -> onnx.ModelProto:
    """One layer with seeded weights, its sizes of sequences open."""
    rng = np.random.default_rng(0)
    rows = (4 if op == "LSTM" else 3) * hidden
    tensors = [
        numpy_helper.from_array(
            (rng.standard_normal(shape) * scale).astype(np.float32), name
        )
        for name, shape, scale in (
            ("w", (directions, rows, inputs), 1.5 / inputs**0.5),
            ("r", (directions, rows, hidden), 1.5 / hidden**0.5),
            ("b", (directions, 2 * rows), 0.1),
        )
    ]  # fmt: skip
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    node = helper.make_node(
        op, ["x", "w", "r", "b"], ["y"], hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward", **more,
    )  # fmt: skip
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", floats, ["steps", "batch", inputs])],
        [helper.make_tensor_value_info("y", floats, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def main() -> None:
    """Print one line a layer, size and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default=".")
    parser.add_argument("--kinds", default="u50,u80,u90,b4x1_90,2:4")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--steps", default="1,20,100")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--force", action="store_true", help="claim whatever it costs")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    print(
        f"{'layer':38} {'threads':>7} {'batch':>5} {'steps':>5} {'dense':>9} ",
        *(f"{k:>8}" for k in kinds),
    )
    for name, op, inputs, hidden, directions in LAYERS:
        label = f"{name}, {op} {inputs}-{hidden}{' x2' if directions == 2 else ''}"
        if not re.search(options.only, label):
            continue
        model = layer(op, inputs, hidden, directions)
        pruned = {k: prune(model, k) for k in kinds}
        for threads in (int(t) for t in options.threads.split(",")):
            dense = runtime.session(model, threads, provider="cpu")
            sparse = {
                k: runtime.session(m, threads, force=options.force) for k, m in pruned.items()
            }
            claimed = {
                k: s for k, s in sparse.items() if any(d.claimed for d in runtime.explain(s))
            }
            for batch in (int(b) for b in options.batch.split(",")):
                for steps in (int(s) for s in options.steps.split(",")):
                    x = np.random.default_rng(1).standard_normal((steps, batch, inputs))
                    given = {"x": x.astype(np.float32)}
                    contenders = {"dense": partial(dense.run, None, given)}
                    for k, s in claimed.items():
                        contenders[k] = partial(s.run, None, given)
                    times = rounds(contenders, options.seconds)
                    best = 1e6 * float(np.median(times["dense"]))
                    row = [
                        f"{ratio(times['dense'], times[k]):8.2f}" if k in times else f"{'-':>8}"
                        for k in kinds
                    ]
                    print(
                        f"{label:38} {threads:7} {batch:5} {steps:5} {best:6.0f} us ",
                        *row,
                        flush=True,
                    )


if __name__ == "__main__":
    main()
