"""Accuracy after pruning without training, on the shared trained networks.

    python benchmarks/accuracy.py                      # the CIFAR networks, every column
    python benchmarks/accuracy.py --network imagenet_mobilenetv2_10_qat --level element=0.5
    python benchmarks/accuracy.py --all --level element=0.5 --level 2:4

Every row is one network, pattern and level: the dense metric, plain magnitude, and what
``onnxprune.prune`` makes of it with unlabelled samples. CIFAR networks are calibrated on training
images and evaluated on the 5,000 test images; the others, of which only evaluation data exists, on
every second sample, and evaluated (dense too) on those in between. For masks the first layer stays
dense, as in the figures this is compared with; channels are pruned everywhere.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import onnxprune

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
Array = npt.NDArray[Any]
Loader = Callable[[int], Any]
CIFAR_LEVELS = (
    "element=0.5", "element=0.7", "element=0.8", "element=0.9", "2:4", "block:4x1=0.7",
    "channel/macs=0.7", "channel/macs=0.5",
)  # fmt: skip


def _pixels(blob: bytes) -> Array:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"), np.float32)


def cifar(lib: Any, *, raw: bool = False) -> Loader:
    """Training images drawn with a fixed seed."""

    def load(samples: int) -> Any:
        data = np.load(DATA / "data_cifar10_jpeg" / "train.npz")
        blob, ends = data["blob"], data["off"]
        chosen = np.random.default_rng(0).permutation(len(ends) - 1)[:samples]
        images = np.stack([_pixels(blob[ends[i] : ends[i + 1]].tobytes()) for i in chosen])
        if not raw:
            images = (images / 255 - lib.M) / lib.S
        return {"input": images.transpose(0, 3, 1, 2).astype(np.float32)}

    return load


def imagenet(size: int, prepare: Callable[[Array], Array]) -> Loader:
    """Every second sample image."""

    def load(samples: int) -> Any:
        from PIL import Image

        files = sorted((DATA / "data_imagenet1k_sample" / "images").iterdir())[::2][:samples]
        edge = (256 - size) // 2
        images = []
        for file in files:
            cut = Image.open(file).crop((edge, edge, edge + size, edge + size))
            images.append(prepare(np.asarray(cut, np.float32)).transpose(2, 0, 1))
        return {"input": np.stack(images).astype(np.float32)}

    return load


def kws(samples: int) -> Any:
    """Every second clip."""
    return {"input": np.load(DATA / "kws_dscnn_mlperf" / "eval.npz")["x"][::2][:samples]}


def stories(samples: int) -> Any:
    """Every second story, cut where its padding starts."""
    rows = np.load(DATA / "text_stories260k" / "eval.npz")["tokens"].astype(np.int64)[::2]
    return [{"ids": row[row >= 0][None, :-1]} for row in rows[:samples]]


def g2p(samples: int) -> Any:
    """Every second word with its pronunciation."""
    data = np.load(DATA / "text_g2p_gru" / "eval.npz")
    feeds = []
    for letters, sounds in zip(data["graphemes"][::2], data["phonemes"][::2], strict=True):
        word = letters[: list(letters).index(2) + 1].astype(np.int64)
        target = sounds[sounds >= 0].astype(np.int64)
        feeds.append({"graphemes": word[None], "phon_in": np.r_[2, target[:-1]][None]})
    return feeds[:samples]


def ncf(samples: int) -> Any:
    """Every second user with the candidates of its list."""
    data = np.load(DATA / "data_ml1m" / "eval.npz")
    items = data["items"][::2].astype(np.int64)
    return [
        {"user": np.full(100, user, np.int64), "item": row}
        for user, row in zip(data["user"][::2], items, strict=True)
    ][:samples]


def networks() -> tuple[dict[str, Loader], Any]:
    """Return a calibration loader for every network that can be measured, and the evaluation."""
    sys.path.insert(0, str(DATA))
    import evallib

    return {
        "cifar10_resnet20_jpegft": cifar(evallib),
        "cifar10_resnet56_jpegft": cifar(evallib),
        "cifar10_resnet8_mlperf": cifar(evallib, raw=True),
        "imagenet_mobilenetv2_10_qat": imagenet(224, evallib.qa),
        "imagenet_squeezenet10_dc": imagenet(227, evallib.bgr),
        "kws_dscnn_mlperf": kws,
        "text_stories260k": stories,
        "text_g2p_gru": g2p,
        "recsys_ncf_mlp": ncf,
    }, evallib


def measure(
    name: str, level: str, load: Loader, lib: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """Prune one network both ways and evaluate it."""
    how, _, number = level.partition("=")
    pattern, _, what = how.partition("/")
    sparsity = float(number) if number and not what else None
    target = {what: float(number)} if what else {}
    structural = pattern == "channel"
    source = DATA / name / "model.onnx"
    lib.SPLIT = "all" if name.startswith("cifar") else "hidden"
    data = load(options.samples)
    if isinstance(data, dict):  # input names differ between networks
        import onnxruntime

        session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
        data = {session.get_inputs()[0].name: next(iter(data.values()))}
    row: dict[str, Any] = {"network": name, "level": level}
    row["dense"] = lib.TASKS[name](str(source))["value"]
    with tempfile.TemporaryDirectory() as folder:
        for way in ("none", "auto"):
            started = time.perf_counter()
            result = onnxprune.prune(
                source, pattern, sparsity, target=target, data=data, samples=options.samples,
                recover=way, first_layer="prune" if structural else options.first_layer,
                allocation=options.allocation if way == "auto" else "uniform",
            )  # fmt: skip
            took = time.perf_counter() - started
            file = Path(folder) / f"{way}.onnx"
            onnxprune.save(result.loaded, file)
            row["magnitude" if way == "none" else "recovered"] = lib.TASKS[name](str(file))["value"]
            if way == "auto":
                row["seconds"] = round(took, 1)
                row["held_out"] = (result.report["recovery"] or {}).get("steps")
                row["sparsity"] = round(result.report["sparsity"], 4)
                row["macs"] = round(
                    result.report["macs"]["after"] / result.report["macs"]["before"], 4
                )
    return row


def main() -> None:
    """Measure and print one line a row, as text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", action="append")
    parser.add_argument("--all", action="store_true", help="every network that can be measured")
    parser.add_argument(
        "--level", action="append", help="PATTERN, PATTERN=SPARSITY or PATTERN/TARGET=KEPT"
    )
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--allocation", default="auto")
    parser.add_argument("--first-layer", default="keep", choices=("keep", "prune"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(1, f"{DATA} is missing; nothing can be measured\n")
    known, lib = networks()
    lib.THREADS = 2
    names = options.network or (list(known) if options.all else list(known)[:2])
    if not options.json:
        print(f"{'network':30s} {'level':14s} {'dense':>8s} {'magnitude':>9s} {'pruned':>8s} "
              f"{'sparsity':>8s} {'seconds':>7s}")  # fmt: skip
    for name in names:
        for level in options.level or CIFAR_LEVELS:
            row = measure(name, level, known[name], lib, options)
            if options.json:
                print(json.dumps(row, default=float), flush=True)
            else:
                print(f"{name:30s} {level:14s} {row['dense']:8.4f} {row['magnitude']:9.4f} "
                      f"{row['recovered']:8.4f} {row['sparsity']:8.4f} {row['seconds']:7.1f}",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
