"""A metric of the user's own: a Python function that is given a session and the samples."""

from __future__ import annotations

import importlib.util
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.errors import DataError, UsageError

Metric = Callable[..., Any]


def load_metric(text: str) -> Metric:
    """Return the function that ``file.py:function`` names.

    Raises:
        UsageError: not of this form, no such file, or no such function.
        DataError: the file raises while it is imported.
    """
    file, colon, name = text.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py":
        raise UsageError(f"metric {text!r}: write it like file.py:function")
    if not path.is_file():
        raise UsageError(f"metric {text!r}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"_onnxprune_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"metric {text!r}: {file} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise DataError(f"{file} failed: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"metric {text!r}: {file} has no function {name!r}")
    function: Metric = found
    return function


def measure(
    name: str, metric: Metric, session: Any, feeds: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return what the metric says about one model, by name.

    Args:
        name: what to call a metric that returns a single number.
        metric: called as ``metric(session, feeds)``; returns a number, or a mapping from names to
            numbers.
        session: an onnxruntime session of the model.
        feeds: the samples, each a complete feed.

    Raises:
        DataError: the function raises, or returns something else.
    """
    try:
        found = metric(session, feeds)
    except Exception as error:  # the user's own code
        raise DataError(f"metric {name} failed: {type(error).__name__}: {error}") from error
    rows = found if isinstance(found, Mapping) else {name: found}
    values = {}
    for key, value in rows.items():
        if hasattr(value, "item") and getattr(value, "size", 1) == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise DataError(
                f"metric {name} returned {type(value).__name__} for {key!r}; return a number, or a "
                "mapping from names to numbers"
            )
        values[str(key)] = float(value)
    return values
