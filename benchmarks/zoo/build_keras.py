"""Networks of Keras, converted by tf2onnx: from functions, and from TFLite files.

    python benchmarks/zoo/build_keras.py --out .cache/zoo-keras [--only RE] [--list]

Weights are those of Keras's initialisers; scales of norms are drawn with either sign, biases at
random, and running statistics are those of a batch of noise, perturbed, so that a wrong channel
shows. tf2onnx knows no ``Erfc``, so no exact GELU. Needs an environment of its own: tensorflow,
tf2onnx, onnx, onnxruntime.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np


@dataclass(frozen=True)
class Network:
    """One Keras model and how it is written.

    build: makes the model. kind: as in :class:`.registry.Case`. opsets: one file for each.
    tflite: another file by way of TFLite.
    """

    build: Callable[[], Any]
    kind: str = "cnn"
    opsets: tuple[int, ...] = (17,)
    tflite: bool = False


NETWORKS: dict[str, Network] = {}


def network(**fields: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a builder under its own name."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        NETWORKS[build.__name__.strip("_")] = Network(build, **fields)
        return build

    return register


def _application(name: str, size: int = 64, **more: Any) -> Callable[[], Any]:
    def build() -> Any:
        import keras

        make = getattr(keras.applications, name)
        return make(weights=None, input_shape=(size, size, 3), classes=7, **more)

    return build


for _name, _fields in {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {},
    "EfficientNetB0": {},
    "EfficientNetV2B0": {},
    "DenseNet121": {},
    "NASNetMobile": {},
    "ResNet50V2": {},
    "Xception": {"size": 71},
}.items():
    NETWORKS[_name] = Network(
        _application(_name, **_fields),
        opsets=(13, 17) if _name.startswith("MobileNetV") else (17,),
        tflite=_name.startswith("MobileNet"),
    )


@network(opsets=(13, 15, 18), tflite=True)
def small_cnn() -> Any:
    """Every sort of convolution and pooling of Keras, channels last, into a dense head."""
    import keras
    from keras import layers as k

    x = inputs = keras.Input((32, 32, 3))
    x = k.ReLU(max_value=6)(k.BatchNormalization()(k.Conv2D(24, 3, padding="same")(x)))
    x = k.MaxPooling2D()(x)
    x = k.SeparableConv2D(32, 3, padding="same", activation="swish")(x)
    y = k.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    y = k.Conv2D(32, 1)(k.PReLU(shared_axes=[1, 2])(y))
    x = k.Add()([x, y])
    z = k.Conv2D(32, 3, strides=2, padding="same")(k.ZeroPadding2D(1)(x))
    z = k.UpSampling2D()(k.LeakyReLU()(z))
    z = k.Cropping2D(((0, 1), (1, 0)))(k.Conv2D(16, 2)(z))
    x = k.Concatenate()([x, z])
    x = k.AveragePooling2D(2)(k.Conv2DTranspose(20, 3, strides=2, padding="same")(x))
    gate = k.Dense(20, activation="sigmoid")(k.Dense(8, activation="relu")(
        k.GlobalAveragePooling2D()(x)
    ))  # fmt: skip
    x = k.Multiply()([x, k.Reshape((1, 1, 20))(gate)])
    x = k.Flatten()(k.AveragePooling2D(4)(x))
    return keras.Model(inputs, k.Dense(7, activation="softmax")(x))


@network()
def unet() -> Any:
    """Skips over two scales, channels last."""
    import keras
    from keras import layers as k

    def double(x: Any, width: int) -> Any:
        for _ in range(2):
            x = k.ReLU()(k.BatchNormalization()(k.Conv2D(width, 3, padding="same")(x)))
        return x

    inputs = keras.Input((32, 32, 3))
    a = double(inputs, 16)
    b = double(k.MaxPooling2D()(a), 32)
    c = double(k.MaxPooling2D()(b), 48)
    b = double(k.Concatenate()([b, k.UpSampling2D(interpolation="bilinear")(c)]), 32)
    a = double(k.Concatenate()([a, k.Conv2DTranspose(16, 2, strides=2)(b)]), 16)
    return keras.Model(inputs, k.Conv2D(4, 1)(a))


@network(kind="audio", opsets=(13, 17), tflite=True)
def conv1d() -> Any:
    """Dilated and causal convolutions over time."""
    import keras
    from keras import layers as k

    x = inputs = keras.Input((64, 12))
    x = k.Conv1D(32, 5, padding="causal", activation="relu")(x)
    for rate in (1, 2, 4):
        y = k.Conv1D(32, 3, dilation_rate=rate, padding="same")(x)
        x = k.Add()([x, k.Activation("tanh")(k.BatchNormalization()(y))])
    x = k.SeparableConv1D(48, 3, strides=2)(k.MaxPooling1D(2)(x))
    return keras.Model(inputs, k.Dense(5)(k.GlobalMaxPooling1D()(x)))


def _recurrent(layer: str, *, both: bool = False, **more: Any) -> Callable[[], Any]:
    def build() -> Any:
        import keras
        from keras import layers as k

        make = getattr(k, layer)
        x = inputs = keras.Input((10, 16))
        x = k.Dense(24, activation="relu")(x)
        first, second = make(32, return_sequences=True, **more), make(24, **more)
        x = k.Bidirectional(first)(x) if both else first(x)
        x = k.Bidirectional(second)(x) if both else second(x)
        return keras.Model(inputs, k.Dense(5)(k.Dense(32, activation="silu")(x)))

    return build


NETWORKS["lstm"] = Network(_recurrent("LSTM"), kind="rnn", opsets=(13, 17))
NETWORKS["lstm_both"] = Network(_recurrent("LSTM", both=True), kind="rnn")
NETWORKS["gru"] = Network(_recurrent("GRU"), kind="rnn")
NETWORKS["gru_before"] = Network(_recurrent("GRU", reset_after=False), kind="rnn")
NETWORKS["gru_both"] = Network(_recurrent("GRU", both=True), kind="rnn")
NETWORKS["rnn"] = Network(_recurrent("SimpleRNN"), kind="rnn")
NETWORKS["lstm_unrolled"] = Network(_recurrent("LSTM", unroll=True), kind="rnn")


@network(kind="transformer", opsets=(13, 18))
def attention() -> Any:
    """Keras's MultiHeadAttention: einsum projections; embeddings of words and places."""
    import keras
    from keras import layers as k

    inputs = keras.Input((12,), dtype="int32")
    x = k.Embedding(90, 64)(inputs)
    x = x + k.Embedding(12, 64)(keras.ops.arange(12))
    for _ in range(2):
        x = k.LayerNormalization()(x + k.MultiHeadAttention(4, 16)(x, x))
        y = k.Dense(64)(keras.activations.gelu(k.Dense(160)(x), approximate=True))
        x = k.LayerNormalization()(x + y)
    return keras.Model(inputs, k.Dense(5)(k.GlobalAveragePooling1D()(x)))


@network(kind="transformer")
def grouped_attention() -> Any:
    """Fewer keys than queries, causal, RMS norm."""
    import keras
    from keras import layers as k

    x = inputs = keras.Input((10, 32))
    x = k.Dense(64)(x)
    y = k.GroupQueryAttention(16, 4, 2)(x, x, use_causal_mask=True)
    x = k.RMSNormalization()(x + y)
    x = x + k.Dense(64)(k.Dense(128, activation="silu")(x) * k.Dense(128)(x))
    return keras.Model(inputs, k.Dense(5)(x))


@network(kind="mixer")
def mixer() -> Any:
    """Dense layers over patches and over channels in turn."""
    import keras
    from keras import layers as k

    x = inputs = keras.Input((32, 32, 3))
    x = k.Reshape((16, 48))(k.Conv2D(48, 8, strides=8)(x))
    for _ in range(2):
        y = k.Permute((2, 1))(k.LayerNormalization()(x))
        y = k.Dense(16)(k.Dense(32, activation="silu")(y))
        x = x + k.Permute((2, 1))(y)
        x = x + k.Dense(48)(k.Dense(96, activation="silu")(k.LayerNormalization()(x)))
    return keras.Model(inputs, k.Dense(5)(k.GlobalAveragePooling1D()(x)))


def randomize(model: Any, rng: np.random.Generator) -> None:
    """Draw scales and biases, and take running statistics from noise."""
    import keras

    flat = list(model._flatten_layers(include_self=False))
    for layer in flat:
        for weight in layer.weights if not getattr(layer, "_layers", None) else ():
            shape, name = tuple(weight.shape), weight.path.rsplit("/", 1)[-1]
            if name in ("gamma", "scale"):
                sign = rng.choice([-1.0, 1.0], shape)
                weight.assign(sign * rng.uniform(0.5, 1.5, shape))
            elif name in ("beta", "bias"):
                weight.assign(rng.normal(0, 0.2, shape))
            elif name == "alpha":
                weight.assign(rng.uniform(0.05, 0.45, shape))
    norms = [x for x in flat if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        shape = (8, *model.inputs[0].shape[1:])
        model(rng.standard_normal(shape).astype(np.float32), training=True)
    for norm in norms:
        variance = np.maximum(np.asarray(norm.moving_variance), 1e-3)
        noise = rng.standard_normal(variance.shape)
        norm.moving_mean.assign(np.asarray(norm.moving_mean) + 0.3 * np.sqrt(variance) * noise)
        norm.moving_variance.assign(variance * rng.uniform(0.7, 1.6, variance.shape))


def write(model: Any, path: Path, opset: int) -> None:
    """Convert a model by way of its function."""
    import tensorflow as tf
    import tf2onnx

    source = model.inputs[0]
    spec = tf.TensorSpec((None, *source.shape[1:]), source.dtype, name="input")
    call = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    tf2onnx.convert.from_function(call, input_signature=[spec], opset=opset, output_path=str(path))


def write_lite(model: Any, path: Path, opset: int) -> None:
    """Convert a model by way of TFLite."""
    import tensorflow as tf
    import tf2onnx

    lite = path.with_suffix(".tflite")
    lite.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    try:
        tf2onnx.convert.from_tflite(str(lite), opset=opset, output_path=str(path))
    finally:
        lite.unlink()


def main() -> int:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(".cache/zoo-keras"))
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--force", action="store_true", help="rebuild what is already there")
    parser.add_argument("--list", action="store_true", help="print the networks and stop")
    given = parser.parse_args()
    if given.list:
        for name, made in NETWORKS.items():
            print(f"{name:20} {made.kind:12} {made.opsets}{' tflite' * made.tflite}")
        return 0
    needed = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        print("needs", *missing, "- pip install tensorflow-cpu tf2onnx onnxruntime; see README.md")
        return 1
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import keras

    from zoo.written import Manifest, entry_of

    logging.disable(logging.WARNING)
    manifest = Manifest(given.out)
    for name, made in NETWORKS.items():
        ways = {f"opset{opset}": (write, opset) for opset in made.opsets}
        ways |= {"tflite": (write_lite, 17)} if made.tflite else {}
        held = {way for way in ways if f"keras.{name}.{way}" in manifest.models}
        if not re.search(given.only, name) or (len(held) == len(ways) and not given.force):
            continue
        try:
            seed = zlib.crc32(name.encode())
            keras.utils.set_random_seed(seed)
            model = made.build()
            randomize(model, np.random.default_rng(seed))
        except Exception as error:
            manifest.fail(f"keras.{name}", error)
            continue
        for way, (how, opset) in ways.items():
            target = given.out / f"keras.{name}.{way}.onnx"
            try:
                how(model, target, opset)
                entry = entry_of(
                    target, arch=name, family="keras", kind=made.kind, exporter=f"tf2onnx {way}",
                    fills={"input": 90} if name == "attention" else None,
                )  # fmt: skip
            except Exception as error:
                manifest.fail(target.stem, error)
            else:
                manifest.add(entry)
        keras.backend.clear_session()
    print(len(manifest.models), "files,", len(manifest.failed), "failed, in", given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
