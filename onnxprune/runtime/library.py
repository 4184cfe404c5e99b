"""Finds the provider's shared library, loads it, and registers it with onnxruntime once."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from pathlib import Path
from typing import Any

from onnxprune.errors import RuntimeUnavailableError

PROVIDER = "OnnxPruneSparseExecutionProvider"
"""Name of the execution provider, as ``InferenceSession.get_providers()`` lists it."""

ENVIRONMENT = "ONNXPRUNE_LIBRARY"
"""Environment variable that overrides where the library is looked for."""

OLDEST_ONNXRUNTIME = (1, 23)
"""First onnxruntime release with plugin execution providers as they are used here."""

_REGISTRATION = "onnxprune"
_FILE = "libonnxprune_runtime.so"
_lock = threading.Lock()
_handles: dict[Path, ctypes.CDLL] = {}
_registered: list[Path] = []
_operators: dict[Path, frozenset[str]] = {}


def library_path() -> Path | None:
    """Return the library's path, or None where there is none.

    Looked for in this order: the file that the environment variable ONNXPRUNE_LIBRARY names, the
    installed package (``onnxprune/runtime/lib``), and ``build/native`` of a source checkout.
    """
    override = os.environ.get(ENVIRONMENT)
    if override:
        path = Path(override)
        return path if path.is_file() else None
    package = Path(__file__).resolve().parent
    checkout = package.parent.parent / "build" / "native"
    for path in (package / "lib" / _FILE, checkout / _FILE):
        if path.is_file():
            return path
    return None


def available() -> tuple[bool, str]:
    """Return whether the sparse provider can be used in this process, and if not, why.

    The reason is empty when it can. Registers the library as a side effect, so a True answer means
    that onnxruntime accepted it.
    """
    try:
        register()
    except RuntimeUnavailableError as error:
        return False, str(error)
    return True, ""


def register() -> list[Any]:
    """Register the library with onnxruntime, once for the process; return its ``OrtEpDevice`` list.

    Calling it again costs nothing. A library that somebody else registered under another name is
    taken as it is.

    Raises:
        RuntimeUnavailableError: no library, no or too old an onnxruntime, or the two do not fit;
            the message says which and what to do.
    """
    import onnxruntime as ort

    with _lock:
        _check_onnxruntime(ort)
        devices = _devices(ort)
        if devices:
            return devices
        path = _require_path()
        load(path)
        try:
            ort.register_execution_provider_library(_REGISTRATION, str(path))
        except Exception as error:  # onnxruntime raises its own classes, all plain exceptions
            raise RuntimeUnavailableError(f"onnxruntime refused {path}: {error}") from error
        _registered.append(path)
        devices = _devices(ort)
        if not devices:
            raise RuntimeUnavailableError(
                f"onnxruntime loaded {path} but offers no CPU device for it; report this with the "
                "output of 'onnxprune doctor'"
            )
        return devices


def load(path: Path) -> ctypes.CDLL:
    """Return the library at ``path`` for direct calls.

    onnxruntime opens the same file, so both see the same decision logs.

    Raises:
        RuntimeUnavailableError: the file cannot be loaded here.
    """
    known = _handles.get(path)
    if known is not None:
        return known
    try:
        library = ctypes.CDLL(str(path))
        library.OnnxPruneInfo.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        library.OnnxPruneInfo.restype = ctypes.c_size_t
        library.OnnxPruneLog.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
        library.OnnxPruneLog.restype = ctypes.c_size_t
        library.OnnxPruneForget.argtypes = [ctypes.c_char_p]
        library.OnnxPruneForget.restype = None
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailableError(
            f"{path} cannot be loaded: {error}; build it again with "
            "'cmake -S runtime_ext -B build/native && cmake --build build/native'"
        ) from error
    _handles[path] = library
    return library


def library_info() -> dict[str, Any]:
    """Return what the library says of itself and this machine.

    Keys: version, provider, interface_versions, training_operators, isa, isa_supported,
    code_generation, code_generation_reason, kernels.

    Raises:
        RuntimeUnavailableError: there is no loadable library.
    """
    library = load(_require_path())
    size = library.OnnxPruneInfo(None, 0)
    buffer = ctypes.create_string_buffer(size)
    library.OnnxPruneInfo(buffer, size)
    info: dict[str, Any] = json.loads(buffer.value)
    return info


def training_operators() -> frozenset[str]:
    """Return the library's operators for training steps; none where it cannot be used.

    They are for models that are written, run and forgotten by this process.
    """
    import onnxruntime as ort

    path = library_path()
    if path is None:
        return frozenset()
    with _lock:
        if path not in _operators:
            try:
                names = library_info().get("training_operators", ())
                ort.SessionOptions().register_custom_ops_library(str(path))
            except Exception:  # no such library, or onnxruntime refuses it by a class of its own
                names = ()
            _operators[path] = frozenset(names)
        return _operators[path]


def add_operators(options: Any) -> None:
    """Make the library's operators known to the sessions that ``options`` are for."""
    options.register_custom_ops_library(str(_require_path()))


def session_log(key: str) -> dict[str, Any] | None:
    """Return the log of the session created with option ``session_id=key``, None if unknown."""
    path = library_path()
    if path is None:
        return None
    library = load(path)
    encoded = key.encode()
    size = library.OnnxPruneLog(encoded, None, 0)
    while size:
        buffer = ctypes.create_string_buffer(size)
        needed = library.OnnxPruneLog(encoded, buffer, size)
        if needed <= size:
            log: dict[str, Any] = json.loads(buffer.value)
            return log
        size = needed  # a concurrent run has added to it
    return None


def forget_session(key: str) -> None:
    """Drop the log of a session that is gone."""
    for library in _handles.values():
        library.OnnxPruneForget(key.encode())


def _check_onnxruntime(ort: Any) -> None:
    version = str(ort.__version__)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_ONNXRUNTIME or not hasattr(ort, "register_execution_provider_library"):
        wanted = ".".join(str(n) for n in OLDEST_ONNXRUNTIME)
        raise RuntimeUnavailableError(
            f"onnxruntime {version} has no plugin execution providers; install {wanted} or newer"
        )


def _devices(ort: Any) -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]


def _require_path() -> Path:
    path = library_path()
    if path is not None:
        return path
    override = os.environ.get(ENVIRONMENT)
    if override:
        raise RuntimeUnavailableError(f"{ENVIRONMENT} names {override}, which is not a file")
    raise RuntimeUnavailableError(
        f"the sparse runtime library ({_FILE}) is not part of this installation; reinstall with a "
        "C++17 compiler at hand, or build it: 'cmake -S runtime_ext -B build/native && "
        "cmake --build build/native'"
    )
