"""Writing what a command made: the model and the files beside it, all or none."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from onnxprune import io
from onnxprune.errors import SaveError, UsageError
from onnxprune.io import atomic


@dataclass
class Outputs:
    """Files that belong together.

    Attributes:
        model: where the model goes, None for nowhere.
        texts: where texts go, and what makes each once the model's size is known.
        inputs: files that must survive.
    """

    model: Path | None
    texts: dict[Path, Callable[[], str]] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Every file asked for."""
        return [*([self.model] if self.model else []), *self.texts]

    def check(self) -> None:
        """Make sure, before any work, that everything can be written.

        Raises:
            SaveError: a folder is missing or not writable, or an input would be overwritten.
            UsageError: two outputs are one file.
        """
        taken: set[Path] = set()
        if self.model is not None and self.texts:
            taken.add(self.model.absolute().with_name(self.model.name + ".data"))  # its sidecar
        for path in self.paths:
            whole = path.absolute()
            atomic.check_target(whole, self.inputs)
            if not os.access(whole.parent, os.W_OK):
                raise SaveError(
                    f"cannot write {path}: permission denied; choose a folder you may write to"
                )
            if whole in taken:
                raise UsageError(f"{path} is asked for as two different outputs; give two names")
            taken.add(whole)

    def write(self, loaded: io.Loaded, note_size: Callable[[int], None]) -> None:
        """Write all files, or none.

        Args:
            loaded: the model.
            note_size: called with the bytes the model occupies on disk, sidecar included, before
                the texts are made.

        Raises:
            SaveError: the operating system refused; nothing new is left behind.
        """
        with _model_in_place(loaded, self.model) as size:
            if size is not None:
                note_size(size)
            self.write_texts()

    def write_texts(self) -> None:
        """Write the texts, or none of them.

        Raises:
            SaveError: the operating system refused; nothing new is left behind.
        """
        files = [(path.absolute(), _writer(make())) for path, make in self.texts.items()]
        if files:
            atomic.write_files(files)


def _writer(text: str) -> atomic.Writer:
    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    return write


@contextlib.contextmanager
def _model_in_place(loaded: io.Loaded, path: Path | None) -> Iterator[int | None]:
    """Save the model; if what follows fails, put back what was there before."""
    if path is None:
        yield None
        return
    places = [path.absolute(), path.absolute().with_name(path.name + ".data")]
    kept = {place: _keep(place) for place in places if place.exists()}
    stamps = {place: _stamp(place) for place in places}
    try:
        io.save(loaded, path)
        new = [p for p in places if _stamp(p) is not None and _stamp(p) != stamps[p]]
        yield sum(p.stat().st_size for p in new)
    except BaseException:
        for place in places:
            if place in kept:
                kept[place].replace(place)
            elif stamps[place] is None:
                place.unlink(missing_ok=True)
        raise
    finally:
        for spare in kept.values():
            spare.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _keep(path: Path) -> Path:
    """Give an older file a second name, so that it can come back."""
    spare = path.with_name(f".onnxprune-{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links
        import shutil

        shutil.copy2(path, spare)
    return spare
