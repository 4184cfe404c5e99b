"""Few samples: is pruning with them ever worse than plain magnitude without?

    python benchmarks/few_samples.py                       # every network that is here
    python benchmarks/few_samples.py --network digits_resnet --samples 16 --level channel/macs=0.7

Every row is one network, level and number of unlabelled samples: how far the outputs are from the
dense network's on other samples, which no step saw, for plain magnitude (``recover="none"``, no
samples) and for all defaults with the samples. The distance is the divergence of classes, or the
squared error over the variance of what else there is; ``ratio`` is the second over the first. The
digit networks come with the repository; the others with ``../shared/data``, and are left out where
that is missing. The exit code tells whether a row is worse than plain magnitude by more than
``--margin``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
import numpy.typing as npt
import onnxruntime

import onnxprune
from onnxprune.calibration.agreement import Judge

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS = ("digits_resnet", "digits_mobile", "digits_transformer")
SHARED = (
    "cifar10_resnet20_jpegft", "cifar10_resnet8_mlperf", "kws_dscnn_mlperf", "recsys_ncf_mlp",
    "text_g2p_gru",
)  # fmt: skip
#: Networks without data of their own, which see other pictures: file, height and width.
GRAPHS = {
    "mnist_mlp": ("onnx2c_mnist_pytorch", 28, 28), "pfld": ("pfld", 112, 112),
    "ocr_anglenet": ("ocr_anglenet", 32, 192), "ultraface": ("ultraface_slim320_simpl", 240, 320),
}  # fmt: skip
LEVELS = (
    "element=0.5", "element=0.8", "element=0.9", "2:4", "block:4x1=0.7", "channel/macs=0.7",
    "channel/macs=0.5",
)  # fmt: skip
SAMPLES = (8, 16, 32, 64)
#: Samples that nothing is solved or decided on.
UNSEEN = 150
Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


def digits() -> list[Feed]:
    """Calibration images of the digit networks, and behind them the test images."""
    sys.path.insert(0, str(MODELS))
    import evaluate

    train, _, test, _ = evaluate.split()
    order = np.random.default_rng(0).permutation(len(train))
    images = np.concatenate([train[order], test[:: len(test) // UNSEEN][:UNSEEN]])
    return [{"image": image[None]} for image in images]


def handwriting() -> list[Feed]:
    """The digits as a row of 28x28 numbers."""
    wide = [np.pad(f["image"][0, 0, ::2, ::2].repeat(3, 0).repeat(3, 1), 2) for f in digits()]
    return [{"network_input": (image.reshape(1, -1) - 0.1307) / 0.3081} for image in wide]


def photographs(source: Path, height: int, width: int) -> list[Feed]:
    """Sample images, stretched to a size, in a fixed order of chance."""
    from PIL import Image

    name = onnxruntime.InferenceSession(str(source)).get_inputs()[0].name
    files = sorted((accuracy.DATA / "data_imagenet1k_sample" / "images").iterdir())
    feeds: list[Feed] = []
    for index in np.random.default_rng(0).permutation(len(files)):
        picture = Image.open(files[index]).convert("RGB").resize((width, height))
        array = (np.asarray(picture, np.float32) - 127) / 128
        feeds.append({name: np.ascontiguousarray(array.transpose(2, 0, 1)[None])})
    return feeds


def shared(load: Callable[[int], Any], source: Path) -> list[Feed]:
    """Samples of a network of ``../shared/data``, in a fixed order of chance."""
    data = load(1024)
    if isinstance(data, dict):
        data = {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in data.items()}
        name = onnxruntime.InferenceSession(str(source)).get_inputs()[0].name
        named = {name: next(iter(data.values()))} if len(data) == 1 else data
        count = len(next(iter(named.values())))
        data = [{n: a[i : i + 1] for n, a in named.items()} for i in range(count)]
    return [data[i] for i in np.random.default_rng(0).permutation(len(data))]


def networks() -> dict[str, tuple[Path, Callable[[], list[Feed]]]]:
    """Return, by name, the file and the samples of every network that is here."""
    found: dict[str, tuple[Path, Callable[[], list[Feed]]]] = {
        name: (MODELS / f"{name}.onnx", digits) for name in DIGITS
    }
    if accuracy.DATA.is_dir():
        for name, (file, *size) in GRAPHS.items():
            source = accuracy.DATA / "graphs_only" / f"{file}.onnx"
            if source.is_file():
                read = handwriting if name == "mnist_mlp" else partial(photographs, source, *size)
                found[name] = source, read
        loaders, _ = accuracy.networks()
        for name in SHARED:
            source = accuracy.DATA / name / "model.onnx"
            if source.is_file():
                found[name] = source, partial(shared, loaders[name], source)
    return found


def outputs(model: bytes, feeds: Sequence[Feed]) -> list[list[Array]]:
    """What a model gives for every feed."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [session.run(None, dict(feed)) for feed in feeds]


def prune(source: Path, level: str, data: Sequence[Feed] | None) -> tuple[bytes, dict[str, Any]]:
    """Prune a network by plain magnitude, or with samples and all defaults."""
    how, _, number = level.partition("=")
    pattern, _, what = how.partition("/")
    result = onnxprune.prune(
        source, pattern, float(number) if number and not what else None,
        target={what: float(number)} if what else {},
        data=data, samples=None if data is None else len(data),
        recover="none" if data is None else "auto",
        first_layer="prune" if pattern == "channel" else "keep",
    )  # fmt: skip
    return onnxprune.io.to_bytes(result.loaded.model), result.report


def main() -> None:
    """Measure and print one line a row, as text or JSON."""
    onnxruntime.set_default_logger_severity(3)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = networks()
    parser.add_argument("--network", action="append", choices=list(known))
    parser.add_argument("--level", action="append", help="as of benchmarks/accuracy.py")
    parser.add_argument("--samples", action="append", type=int)
    parser.add_argument("--draws", type=int, default=1, help="sets of samples, a row each")
    parser.add_argument("--margin", type=float, default=0.0, help="how much worse does not count")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{'network':26s} {'level':17s} {'samples':>7s} {'magnitude':>10s} "
              f"{'with data':>10s} {'ratio':>7s} {'seconds':>7s}  steps taken")  # fmt: skip
    worse = rows = 0
    for name in options.network or known:
        source, load = known[name]
        samples = load()
        pool, unseen = samples[:-UNSEEN], samples[-UNSEEN:]
        tokens = all(a.dtype.kind in "iu" for a in unseen[0].values())
        judge = Judge(outputs(source.read_bytes(), unseen), tokens=tokens)
        for level in options.level or LEVELS:
            plain = judge.judge(outputs(prune(source, level, None)[0], unseen))
            draws = range(options.draws)
            for count, draw in itertools.product(options.samples or SAMPLES, draws):
                first = draw * count
                started = time.perf_counter()
                model, report = prune(source, level, pool[first : first + count])
                took = time.perf_counter() - started
                found = judge.judge(outputs(model, unseen))
                steps = report["recovery"]["steps"]
                kept = [step["step"] for step in steps[1:] if step["kept"]]
                ratio = found.loss / max(plain.loss, 1e-12)
                rows, bad = rows + 1, ratio > 1 + options.margin
                worse += bad
                row = {
                    "network": name, "level": level, "samples": count, "draw": draw,
                    "magnitude": plain.loss,
                    "recovered": found.loss, "ratio": ratio, "error": found.error / plain.error,
                    "seconds": took, "steps": steps,
                }  # fmt: skip
                if options.json:
                    print(json.dumps(row, default=float), flush=True)
                else:
                    print(f"{name:26s} {level:17s} {count:7d} {plain.loss:10.4g} "
                          f"{found.loss:10.4g} {ratio:7.3f} {took:7.1f}  {', '.join(kept)}"
                          f"{'  worse than magnitude' if bad else ''}", flush=True)  # fmt: skip
    if worse:
        parser.exit(1, f"{worse} of {rows} rows are worse than plain magnitude\n")


if __name__ == "__main__":
    main()
