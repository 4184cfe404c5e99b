"""From a torch module to an ONNX file with either of torch's exporters."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .registry import Case


def _dynamic_axes(case: Case) -> dict[str, dict[int, str]]:
    """Inputs as declared; an output gets the batch name where its first axis follows the batch."""
    axes = {name: dict(spec) for name, spec in case.dynamic.items()}
    for output in case.outputs:
        if output not in axes and any("batch" in spec.values() for spec in axes.values()):
            axes[output] = {0: "batch"}
    return axes


def _dims(spec: Mapping[int, str]) -> dict[int, Any]:
    return dict.fromkeys(spec, torch.export.Dim.DYNAMIC)


def export(case: Case, module: nn.Module, args: tuple[Any, ...], path: Path) -> None:
    """Write `module`, traced on `args`, to `path` as one ONNX file with embedded weights.

    Raises whatever torch raises when the exporter cannot express the module.
    """
    module.eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        if case.exporter == "script":
            _script(case, module, args, path)
        elif case.exporter == "dynamo":
            _dynamo(case, module, args, path)
        else:
            raise ValueError(f"{case.name}: exporter {case.exporter!r} is not script or dynamo")


def _script(case: Case, module: nn.Module, args: tuple[Any, ...], path: Path) -> None:
    mode = torch.onnx.TrainingMode.PRESERVE if case.unfolded else torch.onnx.TrainingMode.EVAL
    with torch.no_grad():
        torch.onnx.export(
            module,
            args,
            str(path),
            dynamo=False,
            input_names=list(case.inputs),
            output_names=list(case.outputs),
            opset_version=case.opset,
            dynamic_axes=_dynamic_axes(case),
            training=mode,
            do_constant_folding=not case.unfolded,
        )


def _dynamo(case: Case, module: nn.Module, args: tuple[Any, ...], path: Path) -> None:
    shapes: tuple[Any, ...] = tuple(_dims(case.dynamic.get(name, {})) for name in case.inputs)
    if any(
        p.kind == p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values()
    ):
        shapes = (shapes,)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            args,
            dynamo=True,
            input_names=list(case.inputs),
            output_names=list(case.outputs),
            opset_version=case.opset,
            dynamic_shapes=shapes if case.dynamic else None,
            optimize=not case.unfolded,
            verbose=False,
        )
    assert program is not None
    _name_dims(case, program.model)
    program.save(str(path), external_data=False)


def _name_dims(case: Case, model: Any) -> None:
    """Give the exporter's invented symbols (s12, s77) the declared names, everywhere."""
    known: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, name in case.dynamic.get(value.name, {}).items():
            symbol = str(value.shape[axis])
            known.setdefault(symbol, name)
    if not known:
        return
    import onnx_ir as ir

    values = [*model.graph.inputs, *(v for node in model.graph.all_nodes() for v in node.outputs)]
    for value in values:
        if value.shape is None:
            continue
        for axis, dim in enumerate(value.shape):
            if not isinstance(dim, int) and str(dim) in known:
                value.shape[axis] = ir.SymbolicDim(known[str(dim)])
