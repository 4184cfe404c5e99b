"""Models on their way to onnxruntime and the checker, without a copy of the weights in memory.

A small model goes as bytes. A large one goes as a file with its weights beside it in a temporary
folder: onnxruntime maps such weights instead of holding them, as long as it is kept from packing
or fusing them into copies, and the checker does not read them at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune import io
from onnxprune.errors import DataError, ProofError, SaveError
from onnxprune.proof.equivalence import Array, open_session
from onnxprune.proof.widen import narrow_types, wide_feed, widened

Feeds = Sequence[Mapping[str, np.ndarray[Any, Any]]]
LARGE = 1 << 24
"""Bytes of weights from which a model is large."""


@dataclass(frozen=True)
class Staged:
    """A model ready to run.

    Attributes:
        source: its bytes, or its path.
        large: whether it is run without optimisation, its weights mapped.
        wide: whether it computes in float32 what the model computes in a narrower type.
    """

    source: bytes | str
    large: bool
    wide: bool = False

    def run(
        self,
        feeds: Feeds | None,
        wanted: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        otherwise: bool = False,
    ) -> tuple[Feeds, list[list[Array]]]:
        """Return the feeds and, for each, the wanted outputs.

        Args:
            feeds: inputs; random ones when None.
            wanted: names of values; all outputs when None.
            limit: run that many feeds at most.
            otherwise: optimise exactly if one would not without this: other rounding.

        Raises:
            ProofError: onnxruntime cannot load or run the model.
        """
        plain = self.large != otherwise
        if self.large and not otherwise:
            # A few operators run only once they are fused; then the weights get copied after all.
            with contextlib.suppress(ProofError):
                return self._run(feeds, wanted, limit, plain)
            plain = False
        return self._run(feeds, wanted, limit, plain)

    def _run(
        self, feeds: Feeds | None, wanted: Sequence[str] | None, limit: int | None, plain: bool
    ) -> tuple[Feeds, list[list[Array]]]:
        if self.large:
            _give_back()
        session = open_session(self.source, optimize=not plain, lean=self.large)
        held = feeds if feeds is not None else _random(self.source, session)
        if self.wide:
            held = [{k: wide_feed(v) for k, v in feed.items()} for feed in held]
        names = list(wanted) if wanted is not None else [o.name for o in session.get_outputs()]
        try:
            return held, [session.run(names, dict(feed)) for feed in held[:limit]]
        except Exception as error:  # onnxruntime raises its own types, one per status code
            told = " ".join(str(error).split())[:300]
            raise ProofError(f"onnxruntime cannot run the model: {told}") from error


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps twice the largest array it ever freed."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _random(source: bytes | str, session: Any) -> Feeds:
    from onnxprune.calibration.feeds import working_feeds

    try:
        return working_feeds(source, seed=0, session=session)
    except DataError as error:
        raise ProofError(
            f"the dense model could not be run on random inputs, so nothing can be proved: {error} "
            "Give --data with inputs it accepts, or --no-proof"
        ) from error


class Stage:
    """Holds staged models; its temporary folder is gone when the context ends, however it ends.

    Attributes:
        wide: why models are staged as twins that compute in float32; empty while they are not.
    """

    def __init__(self) -> None:
        """Make no folder yet."""
        self.wide = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, model: ir.Model) -> Staged:
        """Stage ``model`` as it is now; later changes to it do not show.

        Raises:
            SaveError: it can neither be written nor held in memory.
        """
        wide = bool(self.wide)
        if wide:
            model = widened(model)
        if not _is_large(model):
            return Staged(io.to_bytes(model), False, wide)
        try:
            return Staged(str(self._write(model)), True, wide)
        except (OSError, SaveError):  # no room for it on disk; perhaps in memory
            return Staged(io.to_bytes(model), False, wide)

    def run(
        self,
        model: ir.Model,
        feeds: Feeds | None,
        wanted: Sequence[str] | None = None,
        *,
        limit: int | None = None,
    ) -> tuple[Staged, Feeds, list[list[Array]]]:
        """Stage a model and run it; from the first that needs it on, all as float32 twins.

        Returns:
            The staged model, the feeds, and for each the wanted outputs.

        Raises:
            ProofError: onnxruntime cannot load or run the model.
            SaveError: see :meth:`put`.
        """
        staged = self.put(model)
        try:
            return staged, *staged.run(feeds, wanted, limit=limit)
        except ProofError as error:
            types = narrow_types(model)
            if self.wide or not types:
                raise
            self.wide = (
                f"computed in float32, because onnxruntime's CPU provider does not run the model "
                f"in {' and '.join(types)} ({str(error)[:160]})"
            )
            staged = self.put(model)
            return staged, *staged.run(feeds, wanted, limit=limit)

    def problem(self, model: ir.Model) -> str | None:
        """Return why the full checker rejects ``model``, None when it accepts it."""
        source: bytes | str
        try:
            source = str(self._write(model, hollow=True)) if _is_large(model) else b""
        except (OSError, SaveError):
            source = b""
        try:
            onnx.checker.check_model(source or io.to_bytes(model), full_check=True)
        except Exception as error:  # ValidationError, InferenceError, and what protobuf raises
            return " ".join(str(error).split())[:300] or type(error).__name__
        return None

    def _write(self, model: ir.Model, *, hollow: bool = False) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix="onnxprune-", ignore_cleanup_errors=True
            )
        self._count += 1
        path = Path(self._folder.name) / f"{self._count}.onnx"
        io.spread(model, path, hollow=hollow)
        return path


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of the main graph's initializers."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def _is_large(model: ir.Model) -> bool:
    return weight_bytes(model) >= LARGE
