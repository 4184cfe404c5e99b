"""Makes onnxruntime sessions that use the sparse provider."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, Union

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxprune.errors import RuntimeUnavailableError, UsageError
from onnxprune.runtime import library
from onnxprune.runtime.decisions import remember

Model: TypeAlias = Union[str, "os.PathLike[str]", bytes, onnx.ModelProto, ir.Model]

OPTIONS = {
    "min_sparsity": "fraction of zeros from which a weight may be claimed (0.5)",
    "force": "claim whatever can be computed exactly, however slow (False)",
    "isa": "instruction set: auto, avx512, avx2 or scalar (auto)",
    "regions": "let activations stay in the planar layout between claimed nodes (True)",
    "profile": "time every step of claimed groups, see profile() (False)",
    "timing": "check predictions and choose kernels by timing; False: repeatable (True)",
    "log_file": "also write the decision log to this file, as JSON (none)",
}
"""Options of the provider and their defaults, as keyword arguments of :func:`session`."""

_serial = itertools.count(1)
_DOMAIN = "ai.onnxprune"  # of the operators that hold packed weights
_LISTED = range(4, 7)  # IR versions (until 2020) in which weights among the inputs are a habit


def session(
    model: Model,
    threads: int | None = None,
    *,
    provider: str = "sparse",
    fallback: bool = False,
    dims: Mapping[str, int] | None = None,
    session_options: Any = None,
    **options: Any,
) -> Any:
    """Return an ``onnxruntime.InferenceSession`` for ``model``.

    Args:
        model: path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        threads: size of the session's pool; None leaves it to onnxruntime (one per core).
        provider: "sparse" (what it does not claim runs on the CPU provider) or "cpu", where packed
            weights are unpacked by the library's operators, if there is a library.
        fallback: on a machine without the sparse provider use the CPU provider instead of raising.
        dims: sizes of open dimensions by their name in the model, fixed for this session. What is
            fixed can be measured and laid out when the session is made; where sizes stay open,
            nodes are claimed only if they would not lose at small sizes either.
        session_options: an ``onnxruntime.SessionOptions`` to start from; it is changed.
        options: provider options, see :data:`OPTIONS`.

    Raises:
        UsageError: unknown provider or option.
        RuntimeUnavailableError: the sparse provider cannot be used here, and why; or onnxruntime
            made the session without it.
    """
    import onnxruntime as ort

    if provider not in ("sparse", "cpu"):
        raise UsageError(f"unknown provider {provider!r}; choose 'sparse' or 'cpu'")
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; choose from {', '.join(OPTIONS)}")
    held = session_options if session_options is not None else _quiet(ort)
    if threads is not None:
        held.intra_op_num_threads = threads
    for name, size in (dims or {}).items():
        held.add_free_dimension_override_by_name(name, size)
    devices: list[Any] = []
    if provider == "sparse":
        try:
            devices = library.register()
        except RuntimeUnavailableError:
            if not fallback:
                raise
    key = ""
    if devices:
        key = f"{os.getpid()}.{next(_serial)}"
        text = {name: _text(value) for name, value in options.items()}
        text["session_id"] = key
        text["threads"] = str(held.intra_op_num_threads or cores())
        held.add_provider_for_devices(devices, text)
        path = library.library_path()
        if path is not None and tuple(int(v) for v in ort.__version__.split(".")[:2]) < (1, 24):
            held.register_custom_ops_library(str(path))  # newer ones ask the provider itself
    # Naming providers would switch the device choice off again. And on an error onnxruntime's
    # Python class would print it and quietly use the CPU provider.
    chosen: dict[str, Any] = {"enable_fallback": False}
    if not devices:
        chosen["providers"] = ["CPUExecutionProvider"]
    try:
        made = _create(ort, (devices and _without_listed(model)) or model, held, chosen)
    except Exception as error:
        path = library.library_path()
        if devices or path is None or _DOMAIN not in str(error):
            raise
        library.add_operators(held)
        made = _create(ort, model, held, chosen)
    if devices and library.PROVIDER not in made.get_providers():
        raise RuntimeUnavailableError(
            f"onnxruntime {ort.__version__} made the session without {library.PROVIDER}; "
            "its warnings say why (session_options.log_severity_level = 2)"
        )
    remember(made, key)
    return made


def _quiet(ort: Any) -> Any:
    held = ort.SessionOptions()
    # Otherwise onnxruntime warns that some nodes stay with the CPU provider, which is intended.
    held.log_severity_level = 3
    return held


def cores() -> int:
    """Cores that this process may use; onnxruntime takes at most as many when told nothing."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _create(ort: Any, model: Model, options: Any, chosen: dict[str, Any]) -> Any:
    if isinstance(model, (str, os.PathLike)):
        return ort.InferenceSession(os.fspath(model), options, **chosen)
    if isinstance(model, (bytes, bytearray, memoryview)):
        return ort.InferenceSession(bytes(model), options, **chosen)
    if isinstance(model, onnx.ModelProto):
        if not _is_external(model):
            return ort.InferenceSession(model.SerializeToString(), options, **chosen)
        raise UsageError(
            "the ModelProto keeps weights in external files, whose folder is not known; pass the "
            "model's path instead"
        )
    if isinstance(model, ir.Model):
        from onnxprune import io

        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            path = Path(folder) / "model.onnx"
            io.save(model, path)
            return ort.InferenceSession(os.fspath(path), options, **chosen)
    raise UsageError(
        f"cannot run a {type(model).__name__}; give a path, bytes, onnx.ModelProto or onnx_ir.Model"
    )


def _without_listed(model: Model) -> bytes | None:
    """The model with weights no longer among its inputs; None where they are meant to be there.

    Exporters listed every weight for years after it had to be so. In newer files, or where a few
    are listed among many that are not, it is an intention. onnxruntime takes none of those listed
    for constant (in files that had to list them it does).
    """
    proto = _old_proto(model)
    if proto is None:
        return None
    names = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in names]
    if 2 * (len(proto.graph.input) - len(kept)) <= len(names) or _is_external(proto):
        return None
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    del out.graph.input[:]
    out.graph.input.extend(kept)
    data: bytes = out.SerializeToString()
    return data


def _old_proto(model: Model) -> onnx.ModelProto | None:
    """The model as protobuf if its IR version, the first thing in a file, is that of the habit."""
    if isinstance(model, onnx.ModelProto):
        return model if model.ir_version in _LISTED else None
    if isinstance(model, (bytes, bytearray, memoryview)):
        source: bytes | str = bytes(model)
        head = source[:2]
    elif isinstance(model, (str, os.PathLike)) and Path(model).is_file():
        source = os.fspath(model)
        with Path(model).open("rb") as file:
            head = file.read(2)
    else:
        return None  # for _create to run or refuse
    if len(head) < 2 or head[0] != 8 or head[1] not in _LISTED:
        return None
    try:
        if isinstance(source, bytes):
            return onnx.load_model_from_string(source)
        return onnx.load(source, load_external_data=False)
    except DecodeError:  # onnxruntime says what is wrong
        return None


def _is_external(model: onnx.ModelProto) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in model.graph.initializer)
