"""Accuracy after pruning without training, on the shared trained networks.

    python benchmarks/accuracy.py                      # the CIFAR networks, every column
    python benchmarks/accuracy.py --network imagenet_mobilenetv2_10_qat --level element=0.5
    python benchmarks/accuracy.py --all --level element=0.5 --level 2:4

Every row is one network, pattern and level: the dense metric, plain magnitude, and what
``onnxprune.prune`` makes of it with unlabelled samples. CIFAR networks are calibrated on training
images and evaluated on the 5,000 test images; the others, of which only evaluation data exists, on
every second sample, and evaluated (dense too) on those in between. For masks the first layer stays
dense, as in the figures this is compared with; channels are pruned everywhere. Super-resolution is
calibrated on cuts of other pictures; detection and segmentation are evaluated with OpenCV. A row
that is worse than plain magnitude is marked, and the exit code says so.
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
    """Pairs of every second user and a candidate of its list, drawn with a fixed seed."""
    data = np.load(DATA / "data_ml1m" / "eval.npz")
    items = data["items"][::2].astype(np.int64)
    users = np.repeat(data["user"][::2].astype(np.int64), items.shape[1])
    chosen = np.random.default_rng(0).permutation(users.size)[:samples]
    return {"user": users[chosen], "item": items.ravel()[chosen]}


def pictures(size: int, prepare: Callable[[Any], Array]) -> Loader:
    """Every second indoor photograph, for detectors and segmenters."""

    def load(samples: int) -> Any:
        from PIL import Image

        files = sorted((DATA / "data_indoor85" / "images").iterdir())[::2][:samples]
        images = [prepare(Image.open(file).convert("RGB")) for file in files]
        assert all(image.shape[:2] == (size, size) for image in images)
        return {"input": np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)}

    return load


def letterbox(image: Any, size: int = 416) -> Array:
    """BGR 0..255 in the upper left of a grey square."""
    from PIL import Image

    ratio = min(size / image.width, size / image.height)
    edges = int(image.width * ratio), int(image.height * ratio)
    square = np.full((size, size, 3), 114, np.float32)
    square[: edges[1], : edges[0]] = np.asarray(image.resize(edges, Image.Resampling.BILINEAR))
    return square[..., ::-1]


def stretched(image: Any, size: int = 513) -> Array:
    """RGB around zero, the whole picture as a square."""
    from PIL import Image

    wide = image.resize((size, size), Image.Resampling.BILINEAR)
    return (np.asarray(wide, np.float32) - 128) / 128


def patches(samples: int) -> Any:
    """Cuts of sample images; the five pictures of the evaluation stay unseen."""
    from PIL import Image

    files = sorted((DATA / "data_imagenet1k_sample" / "images").iterdir())[: min(samples, 64)]
    cuts = [np.asarray(Image.open(f).convert("RGB").crop((96, 96, 160, 160))) for f in files]
    return {"input": np.stack(cuts).transpose(0, 3, 1, 2).astype(np.float32) / 255}


def voices(samples: int) -> Any:
    """Frames of every second recording, with the states that the dense network has there."""
    import onnxruntime

    file = str(DATA / "audio_silero_vad16k" / "model.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    clips = np.load(DATA / "data_vad30" / "eval.npz")
    found = []
    for name in sorted(k for k in clips.files if k.endswith("_x"))[::2]:
        sound = clips[name].astype(np.float32) / 32768
        state, before = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
        for at in range(0, len(sound) - 512, 512):
            feed = {
                "input": np.concatenate([before, sound[at : at + 512]])[None],
                "state": state,
                "sr": np.array(16000, np.int64),
            }
            before = sound[at + 448 : at + 512]
            found.append(feed)
            state = session.run(None, feed)[1]
    return found[:: max(1, len(found) // samples)][:samples]


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
        "audio_silero_vad16k": voices,
        "sr_imdn_x4": patches,
        "det_yolox_nano": pictures(416, letterbox),
        "seg_deeplabv3_mnv2_dm05_voc": pictures(513, stretched),
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
    if isinstance(data, dict) and len(data) == 1:  # input names differ between networks
        import onnxruntime

        session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
        data = {session.get_inputs()[0].name: next(iter(data.values()))}
    row: dict[str, Any] = {"network": name, "level": level}
    dense = lib.TASKS[name](str(source))
    row["dense"] = dense["value"]
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
    gain = row["recovered"] - row["magnitude"]
    row["worse"] = bool((-gain if dense.get("lower_is_better") else gain) < 0)
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
    worse = 0
    for name in names:
        for level in options.level or CIFAR_LEVELS:
            row = measure(name, level, known[name], lib, options)
            worse += row["worse"]
            if options.json:
                print(json.dumps(row, default=float), flush=True)
            else:
                print(f"{name:30s} {level:14s} {row['dense']:8.4f} {row['magnitude']:9.4f} "
                      f"{row['recovered']:8.4f} {row['sparsity']:8.4f} {row['seconds']:7.1f}"
                      f"{'  worse than magnitude' if row['worse'] else ''}",
                      flush=True)  # fmt: skip
    if worse:
        parser.exit(1, f"{worse} rows are worse than magnitude\n")


if __name__ == "__main__":
    main()
