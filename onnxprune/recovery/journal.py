"""What a recovery has worked out so far, on disk, so that an interrupted one goes on where it was.

One folder for all models: entries are files named by a digest of the model, the samples and the
question, so that nothing is ever taken for another model's, and a changed sample starts anew.
Values are kept as they are, in fp64 where they are; a resumed run gives the bytes of one that was
not interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UsageError

Array = npt.NDArray[Any]
#: Part of every digest; raised where what entries hold, or how it is worked out, changes.
EDITION = "2"


class Journal:
    """Entries of one model and its samples; without a folder it remembers nothing."""

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        """Open or create a folder.

        Args:
            folder: where entries lie; None for nowhere.
            key: digest of model and samples, see :func:`digest_of`.

        Raises:
            UsageError: the folder cannot be made.
        """
        self.folder = folder
        self.key = key
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"--cache {folder}: {error.strerror}; give a folder") from error

    def of(self, told: object) -> Journal:
        """Return the journal of what differs by what is told."""
        return Journal(self.folder, f"{self.key} {told}")

    def get(self, question: str) -> dict[str, Array] | None:
        """Return what was kept as the answer; None where nothing whole was."""
        if self.folder is None:
            return None
        try:
            with np.load(self._path(question), allow_pickle=False) as held:
                return {name: held[name] for name in held.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError):
            return None

    def put(self, question: str, answer: Mapping[str, Array]) -> None:
        """Keep an answer. A disk that is full, or folder that is gone, loses only that."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **answer)  # type: ignore[arg-type]  # the stubs know no keywords
        path = self._path(question)
        other = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            other.write_bytes(buffer.getbuffer())
            other.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                other.unlink()

    def _path(self, question: str) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(f"{EDITION} {self.key} {question}".encode()).hexdigest()
        return self.folder / f"{name[:40]}.npz"


def digest_of(model: bytes, feeds: Sequence[Mapping[str, Array]], *told: object) -> str:
    """Return a digest of a model, of samples, and of whatever else decides.

    Args:
        model: serialised.
        feeds: samples; their order counts.
        told: anything whose text says what it is.
    """
    found = hashlib.sha256(model)
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            found.update(f"{name} {array.dtype.str} {array.shape}".encode())
            found.update(array.astype(str).tobytes() if array.dtype == object else array.tobytes())
    found.update(repr(told).encode())
    return found.hexdigest()


def digest_of_masks(masks: Mapping[str, npt.NDArray[np.bool_]], *told: object) -> str:
    """Return a digest of masks by tensor name, and of whatever else decides."""
    found = hashlib.sha256(repr(told).encode())
    for name in sorted(masks):
        found.update(f"{name} {masks[name].shape}".encode())
        found.update(np.packbits(masks[name]).tobytes())
    return found.hexdigest()
