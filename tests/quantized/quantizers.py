"""The float networks in every form that onnxruntime's own quantisation tools write."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from float_nets import NETS

SAMPLES = 4


def feeds(model: onnx.ModelProto, count: int = SAMPLES, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    name = model.graph.input[0].name
    return [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.rows: Iterator[dict] = iter(feeds(model))

    def get_next(self) -> dict | None:
        return next(self.rows, None)


def _static(model: onnx.ModelProto, qdq: bool, **options: object) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    extra = options.pop("extra_options", {})
    options.setdefault("weight_type", QuantType.QInt8)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        quantize_static(
            model,
            out,
            _Reader(model),
            quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
            activation_type=QuantType.QUInt8,
            extra_options=extra,
            **options,
        )
        return onnx.load(out)


def _dynamic(model: onnx.ModelProto, unsigned: bool, **options: object) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        kind = QuantType.QUInt8 if unsigned else QuantType.QInt8
        quantize_dynamic(model, out, weight_type=kind, **options)
        return onnx.load(out)


def _nbits(model: onnx.ModelProto, bits: int, symmetric: bool, qdq: bool) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization import matmul_nbits_quantizer as nb

    config = nb.DefaultWeightOnlyQuantConfig(
        block_size=16,
        is_symmetric=symmetric,
        bits=bits,
        quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
    )
    quantizer = nb.MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    return quantizer.model.model


def _qtype(name: str) -> object:
    from onnxruntime.quantization import QuantType

    return getattr(QuantType, name)


FORMS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "qdq": lambda m: _static(m, True),
    "qdq-per-channel": lambda m: _static(m, True, per_channel=True),
    "qdq-uint8-weights": lambda m: _static(m, True, weight_type=_qtype("QUInt8")),
    "qdq-uint8-per-channel": lambda m: _static(
        m, True, weight_type=_qtype("QUInt8"), per_channel=True
    ),
    "qdq-int16-weights": lambda m: _static(m, True, weight_type=_qtype("QInt16")),
    "qdq-int4-weights": lambda m: _static(m, True, weight_type=_qtype("QInt4")),
    "qdq-on-float-weights": lambda m: _static(
        m, True, per_channel=True, extra_options={"AddQDQPairToWeight": True}
    ),
    "qoperator": lambda m: _static(m, False),
    "qoperator-per-channel": lambda m: _static(m, False, per_channel=True),
    "qoperator-uint8-weights": lambda m: _static(m, False, weight_type=_qtype("QUInt8")),
    "dynamic": lambda m: _dynamic(m, False, per_channel=False),
    "dynamic-uint8-per-channel": lambda m: _dynamic(m, True, per_channel=True),
    "nbits-4": lambda m: _nbits(m, 4, True, False),
    "nbits-4-asymmetric": lambda m: _nbits(m, 4, False, False),
    "nbits-8": lambda m: _nbits(m, 8, False, False),
    "nbits-qdq": lambda m: _nbits(m, 4, True, True),
    "nbits-qdq-asymmetric": lambda m: _nbits(m, 4, False, True),
}
ONLY_MATMUL = ("nbits",)


def pairs() -> list[tuple[str, str]]:
    """Return (network, form) of everything that can be built."""
    return [
        (net, form)
        for net in NETS
        for form in FORMS
        if not form.startswith(ONLY_MATMUL) or net in ("recurrent", "transformer", "joining")
    ]


@functools.cache
def build(net: str, form: str) -> bytes:
    """Return a quantised network, serialized."""
    logging.disable(logging.WARNING)
    try:
        return FORMS[form](NETS[net]()).SerializeToString()
    finally:
        logging.disable(logging.NOTSET)
