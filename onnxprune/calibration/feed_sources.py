"""Where samples come from: files, folders, Python functions, objects in memory.

Every source can be opened again and again. It yields *records*: mappings from names to arrays,
not yet checked against a model.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onnxprune.calibration.feed_images import MARK, Preprocess, pictures, records
from onnxprune.calibration.feed_specs import Array, InputSpec, check_names
from onnxprune.errors import DataError

Record = Mapping[str, Array]
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Source:
    """Records that can be read several times.

    Attributes:
        where: what to call it in messages.
        stacked: whether the arrays of a record have samples on their first axis; otherwise a
            record is a whole feed, or a single sample without batch axis.
        open: returns a fresh iterator.
    """

    where: str
    stacked: bool
    open: Callable[[], Iterator[Record]]


def find_source(given: Any, specs: list[InputSpec]) -> Source:
    """Return the source that ``given`` names or is.

    Raises:
        DataError: nothing usable is there.
    """
    if isinstance(given, (str, os.PathLike)):
        return _from_path(os.fspath(given), specs)
    if isinstance(given, Mapping):
        arrays = {str(k): np.asarray(v) for k, v in given.items()}
        return Source("the given arrays", True, lambda: _slices(_named(arrays, specs), specs, ""))
    if hasattr(given, "get_next"):
        return Source("the calibration data reader", False, _reader(given, specs))
    if isinstance(given, Iterable):
        return Source("the given feeds", False, _iterable(given, specs, "the given feeds"))
    raise DataError(
        f"cannot read samples from a {type(given).__name__}; give a .npz file, a folder of .npz or "
        ".npy files, file.py:function, a mapping from input names to arrays, or an iterable of "
        "feeds"
    )


def _from_path(text: str, specs: list[InputSpec]) -> Source:
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return Source(text, False, _python(Path(file), function, specs))
    folder, mark, how = text.partition(MARK)
    path = Path(folder if mark else text)
    if path.is_dir() and (mark or not any(path.glob("*.np[zy]"))):
        found = _pictures(path, how, specs)
        if found is not None:
            return found
    if path.is_dir():
        return _folder(path, specs)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path of the data")
    if path.suffix == ".npz":
        return Source(str(path), True, lambda: _npz(path, specs))
    if path.suffix == ".npy" and len(specs) == 1:
        return Source(str(path), True, lambda: _slices({specs[0].name: _npy(path)}, specs, path))
    hint = f"{path}:function, to say which function" if path.suffix == ".py" else "a .npz file"
    raise DataError(f"cannot read samples from {path}; give {hint}")


def _pictures(path: Path, how: str, specs: list[InputSpec]) -> Source | None:
    files = pictures(path)
    given = [s for s in specs if not s.optional]
    if not files or len(given) != 1:
        if how:
            why = "holds no pictures" if not files else f"cannot feed {len(given)} inputs"
            raise DataError(f"folder {path} {why}; preprocessing is for pictures")
        return None
    steps = Preprocess.parse(how)
    return Source(str(path), False, lambda: records(files, steps, given[0]))


def _folder(path: Path, specs: list[InputSpec]) -> Source:
    archives = sorted(path.glob("*.npz"))
    if archives:
        return Source(str(path), True, lambda: (r for a in archives for r in _npz(a, specs)))
    arrays = sorted(path.glob("*.npy"))
    if not arrays:
        raise DataError(f"folder {path} holds neither .npz nor .npy nor picture files")
    stems = [a.stem for a in arrays]
    if len(specs) == 1 and specs[0].name not in stems:
        name = specs[0].name
        return Source(
            str(path), True, lambda: (r for a in arrays for r in _slices({name: _npy(a)}, specs, a))
        )
    check_names(specs, stems, f"folder {path}")
    wanted = {a.stem: a for a in arrays if a.stem in {s.name for s in specs}}
    return Source(
        str(path),
        True,
        lambda: _slices({name: _npy(a) for name, a in wanted.items()}, specs, path),
    )


def _npy(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy file: {error}") from error
    return array


def _named(arrays: Mapping[str, Array], specs: list[InputSpec]) -> dict[str, Array]:
    """Return ``arrays`` under the model's names if they came without: numpy's arr_0, arr_1 ..."""
    if all(name == f"arr_{i}" for i, name in enumerate(arrays)) and len(arrays) == len(specs):
        return {s.name: a for s, a in zip(specs, arrays.values(), strict=True)}
    return dict(arrays)


def _slices(arrays: Mapping[str, Array], specs: list[InputSpec], where: object) -> Iterator[Record]:
    """Yield pieces of arrays that all have the samples on their first axis."""
    held = {s.name: arrays[s.name] for s in specs if s.name in arrays}
    where = where or "the given arrays"
    check_names(specs, arrays, str(where))
    lengths = {name: len(a) for name, a in held.items() if a.ndim}
    _check_lengths(lengths, where)
    total = max(lengths.values(), default=1)
    step = _step([a[0] if a.ndim and len(a) else a for a in held.values()])
    for start in range(0, total, step):
        yield {n: a[start : start + step] if a.ndim else a for n, a in held.items()}


def _step(rows: Iterable[Array]) -> int:
    return max(1, _CHUNK_BYTES // max(1, sum(row.nbytes for row in rows)))


def _check_lengths(lengths: Mapping[str, int], where: object) -> None:
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r}: {n}" for name, n in lengths.items())
        raise DataError(f"{where}: the inputs have different numbers of samples ({told})")


@dataclass
class _Column:
    """An array inside a .npz file, read from front to back."""

    file: BinaryIO
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: int) -> Array:
        size = rows * self.row_bytes
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError("it is cut off")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def _npz(path: Path, specs: list[InputSpec]) -> Iterator[Record]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _npz_members(archive, path, specs)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def _npz_members(archive: zipfile.ZipFile, path: Path, specs: list[InputSpec]) -> Iterator[Record]:
    names = [n[: -len(".npy")] for n in archive.namelist() if n.endswith(".npy")]
    given = dict(zip(names, names, strict=True))
    if all(n == f"arr_{i}" for i, n in enumerate(names)) and len(names) == len(specs):
        given = {s.name: n for s, n in zip(specs, names, strict=True)}
    check_names(specs, given, str(path))
    columns: dict[str, _Column] = {}
    whole: dict[str, Array] = {}
    for spec in specs:
        if spec.name not in given:
            continue
        member = archive.open(given[spec.name] + ".npy")
        column = _column(member)
        if column is None:  # a scalar, column-major, or of a later format: read in one piece
            with archive.open(given[spec.name] + ".npy") as again:
                whole[spec.name] = np.lib.format.read_array(again, allow_pickle=False)
        else:
            columns[spec.name] = column
    lengths = {n: c.shape[0] for n, c in columns.items()}
    lengths |= {n: len(a) for n, a in whole.items() if a.ndim}
    _check_lengths(lengths, path)
    total = max(lengths.values(), default=1)
    step = max(1, _CHUNK_BYTES // max(1, sum(c.row_bytes for c in columns.values())))
    for start in range(0, total, step):
        rows = min(step, total - start)
        record = {n: c.read(rows) for n, c in columns.items()}
        record |= {n: a[start : start + rows] if a.ndim else a for n, a in whole.items()}
        yield record


def _column(file: Any) -> _Column | None:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        return None
    if dtype.hasobject:
        raise ValueError("it holds pickled objects; store plain arrays")
    if fortran or not shape:
        return None
    return _Column(file, shape, dtype)


def _record(item: Any, specs: list[InputSpec], where: str) -> Record:
    """Return one thing that a loader yielded as a mapping."""
    if isinstance(item, Mapping):
        return {str(k): np.asarray(v) for k, v in item.items()}
    parts = list(item) if isinstance(item, (tuple, list)) and len(specs) > 1 else [item]
    if len(parts) != len(specs):
        raise DataError(
            f"{where} yields {len(parts)} array{'s' * (len(parts) != 1)} for the model's "
            f"{len(specs)} inputs; yield a dict from input names to arrays"
        )
    return {s.name: np.asarray(p) for s, p in zip(specs, parts, strict=True)}


def _iterable(given: Any, specs: list[InputSpec], where: str) -> Callable[[], Iterator[Record]]:
    # An iterator can be walked once only: what it gave is kept for the next time.
    once = iter(given) is given
    kept: list[Record] = []

    def open_again() -> Iterator[Record]:
        if not once:
            return (_record(item, specs, where) for item in given)
        return _replay(kept, (_record(item, specs, where) for item in given))

    return open_again


def _replay(kept: list[Record], rest: Iterator[Record]) -> Iterator[Record]:
    position = 0
    while True:
        while position < len(kept):
            yield kept[position]
            position += 1
        fresh = next(rest, None)
        if fresh is None:
            return
        kept.append(fresh)


def _reader(reader: Any, specs: list[InputSpec]) -> Callable[[], Iterator[Record]]:
    where = "the calibration data reader"
    kept: list[Record] = []

    def rest() -> Iterator[Record]:
        while (item := reader.get_next()) is not None:
            yield _record(item, specs, where)

    def open_again() -> Iterator[Record]:
        if hasattr(reader, "rewind"):
            reader.rewind()
            return rest()
        return _replay(kept, rest())

    return open_again


def _python(file: Path, name: str, specs: list[InputSpec]) -> Callable[[], Iterator[Record]]:
    where = f"{file}:{name}"
    if not file.is_file():
        raise DataError(f"{file} does not exist; check the path of the data loader")
    spec = importlib.util.spec_from_file_location(f"_onnxprune_loader_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise DataError(f"{file} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    with _explained(where):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"{file} has no function {name!r}; name one that yields feeds")

    def open_again() -> Iterator[Record]:
        with _explained(where):
            given = function()
            if hasattr(given, "get_next"):
                yield from _reader(given, specs)()
            elif isinstance(given, Mapping):
                arrays = {str(k): np.asarray(v) for k, v in given.items()}
                for record in _slices(_named(arrays, specs), specs, where):
                    rows = max((len(a) for a in record.values() if a.ndim), default=1)
                    for i in range(rows):
                        yield {n: a[i] if a.ndim else a for n, a in record.items()}
            else:
                for item in given:
                    yield _record(item, specs, where)

    return open_again


class _explained:
    """Context: whatever the user's own code raises becomes a DataError that names the loader."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise DataError(f"{self.where} failed: {type(error).__name__}: {error}") from error
