"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from onnxprune.errors import SaveError

Writer = Callable[[BinaryIO], None]
_DESCRIPTORS = Path("/proc/self/fd")
_ADVISE = getattr(os, "posix_fadvise", None)
_BUFFER = 1 << 20
_STRIDE = 1 << 26
_WORTH_SENDING = 1 << 28  # a smaller file may well be read next, from memory

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EFBIG: "the file would exceed the size allowed here; raise the limit or write elsewhere",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def check_target(path: Path, protected: Iterable[Path]) -> None:
    """Raise SaveError if ``path`` cannot be, or must not be, replaced by a new file.

    Args:
        path: where a file is to be written.
        protected: files that must survive; links of either sort to them count as them.
    """
    folder = path.parent
    if not folder.is_dir():
        raise SaveError(f"cannot write {path}: folder {folder} does not exist; create it first")
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise explained(error, path) from error
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise SaveError(f"cannot write {path}: it is a folder; give a file name")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise SaveError(f"cannot write {path}: it exists and is not a regular file")
    for kept in protected:
        same = path.absolute() == kept.absolute()
        with contextlib.suppress(OSError):
            same = same or path.samefile(kept)
        if same:
            raise SaveError(
                f"cannot write {path}: the model being read lies there ({kept}); choose another "
                "output path"
            )


def write_files(files: Sequence[tuple[Path, Writer]]) -> None:
    """Write several files that belong together, replacing older ones, all or none.

    Each is written beside its final place under a temporary name and flushed to disk; only when
    all are complete are they renamed, in order. After any failure or interrupt no temporary
    file is left and what was there before is there again. A symbolic link is replaced by the new
    file, its target is left alone.

    Raises:
        SaveError: the operating system refused; says why and what to do.
    """
    spares: list[tuple[Path, Path]] = []
    backups: list[tuple[Path, Path]] = []
    placing = False
    try:
        for path, write in files:
            spare = _spare_name(path)
            spares.append((path, spare))
            _write(path, spare, write)
        placing = True
        # One rename is atomic, two are not: keep the older files until the last is in place.
        for path, _ in files[:-1]:
            if os.path.lexists(path):
                backup = _spare_name(path)
                backups.append((path, backup))
                path.replace(backup)
        for path, spare in spares:
            spare.replace(path)
    except BaseException as error:
        # What happened is read off the disk: an interrupt may fall between a call and a note of it.
        done = placing and not os.path.lexists(spares[-1][1])
        if not done:
            _roll_back(spares if placing else [], backups)
        _remove(spare for _, spare in spares)
        _remove(backup for _, backup in backups)
        if isinstance(error, OSError):
            raise explained(error, files[-1][0]) from error
        raise
    _remove(backup for _, backup in backups)
    _sync_folder(files[-1][0].parent)


def _roll_back(spares: list[tuple[Path, Path]], backups: list[tuple[Path, Path]]) -> None:
    for path, spare in spares:
        if not os.path.lexists(spare):
            path.unlink(missing_ok=True)
    for path, backup in backups:
        if os.path.lexists(backup):
            backup.replace(path)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _spare_name(path: Path) -> Path:
    # Short, so that a long file name does not become too long.
    return path.with_name(f".onnxprune-{secrets.token_hex(8)}.tmp")


def _write(path: Path, spare: Path, write: Writer) -> None:
    descriptor, nameless = _open(spare)
    with io.BufferedWriter(_Sent(descriptor, "wb"), buffer_size=_BUFFER) as file:
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if nameless:
                os.fchmod(descriptor, mode)
            else:
                spare.chmod(mode)
        write(file)
        file.flush()
        os.fsync(descriptor)
        if nameless:
            _give_name(descriptor, spare)


class _Sent(io.FileIO):
    """A file whose written pages are sent to disk early, and leave memory, where it is large.

    Otherwise gigabytes wait in the page cache for the flush at the end, every page of them new
    memory: the disk is idle first and the program waits later. Measured with 4 GB: 1.5 s
    instead of 4 s.
    """

    _sent = 0

    def write(self, data: Any, /) -> int:
        """Write ``data``; see :meth:`io.RawIOBase.write`."""
        count = super().write(data)
        end = self.tell()
        if end - self._sent >= _STRIDE and end >= _WORTH_SENDING and _ADVISE is not None:
            # The run before this one is clean by now: naming it again lets it go.
            start = max(0, self._sent - _STRIDE)
            with contextlib.suppress(OSError):
                _ADVISE(self.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
            self._sent = end
        return count


def _give_name(descriptor: int, spare: Path) -> None:
    folder = os.open(_DESCRIPTORS, os.O_RDONLY)
    try:
        # Relative to a folder: only then does Python follow the link that stands for the file.
        os.link(str(descriptor), spare, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _open(spare: Path) -> tuple[int, bool]:
    """Open a new file for writing; where the system can, one that has no name yet.

    Such a file is gone when the process is, however it ends.
    """
    unnamed = getattr(os, "O_TMPFILE", 0)
    if unnamed and _DESCRIPTORS.is_dir():
        with contextlib.suppress(OSError):  # not every file system can
            return os.open(spare.parent, os.O_WRONLY | unnamed, 0o666), True
    return os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), False


def _sync_folder(folder: Path) -> None:
    # Makes the renames themselves durable; not every file system lets a folder be synced.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def explained(error: OSError, path: Path) -> SaveError:
    """Return the SaveError for what the operating system said while writing ``path``."""
    told = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    read_from = error.filename
    if read_from is not None and not str(read_from).endswith(".tmp") and read_from != str(path):
        return SaveError(f"cannot write {path}: its data in {read_from} cannot be read: {told}")
    return SaveError(f"cannot write {path}: {told}; nothing was written")
