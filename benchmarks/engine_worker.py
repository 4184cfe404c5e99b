"""One inference engine in one process, driven over its standard input and output.

    python engine_worker.py ENGINE MODEL FEEDS.npz OUTPUTS.npz THREADS

ENGINE is ``cpu`` (onnxruntime), ``sparse`` (onnxprune's provider), ``openvino`` or ``deepsparse``.
It runs in the engine's own environment, so it needs numpy and that engine only. It writes what the
model gives for the feeds to OUTPUTS and then prints ``ready SECONDS_TO_LOAD``. For each line it
reads, a number of seconds, it runs once and then for as long, at least thrice, and prints the
median seconds of an inference; an empty line ends it.
Engines are kept apart because one process can hold one DeepSparse engine only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def open_engine(
    engine: str, model: str, feeds: dict[str, Any], threads: int
) -> Callable[[], list[Any]]:
    """Load ``model`` and return a function that runs it once on ``feeds``."""
    if engine == "sparse":
        from onnxprune import runtime

        session = runtime.session(model, threads)
        return lambda: list(session.run(None, feeds))
    if engine == "cpu":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: list(session.run(None, feeds))
    if engine == "openvino":
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        read = core.read_model(model)
        names = [i.any_name for i in read.inputs]
        read.reshape({n: list(feeds[n].shape) for n in names})
        request = core.compile_model(read, "CPU", settings).create_infer_request()

        def infer() -> list[Any]:
            request.infer({n: feeds[n] for n in names}, share_inputs=True)
            return [tensor.data for tensor in request.output_tensors]

        return infer
    if engine == "deepsparse":
        import deepsparse

        compiled = deepsparse.Engine(model=model, batch_size=1, num_cores=threads)
        ordered = [np.ascontiguousarray(feeds[n]) for n in compiled.input_names]
        return lambda: list(compiled.run(ordered))
    raise SystemExit(f"unknown engine {engine}")


def main() -> None:
    """Load, answer, end."""
    engine, model, feeds_path, outputs_path, threads = sys.argv[1:]
    with np.load(feeds_path) as file:
        feeds = {name: file[name] for name in file.files}
    start = time.perf_counter()
    run = open_engine(engine, model, feeds, int(threads))
    loaded = time.perf_counter() - start
    np.savez(outputs_path, *run())
    print(f"ready {loaded}", flush=True)
    for line in sys.stdin:
        if not line.strip():
            return
        run()  # others had the caches meanwhile
        times: list[float] = []
        while len(times) < 3 or sum(times) < float(line):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(f"took {np.median(times)}", flush=True)


if __name__ == "__main__":
    main()
