"""The one exception tree.

    OnnxPruneError              exit code 1
    ├── UsageError              exit code 2: an option, name or ratio that cannot be meant
    ├── ModelError              exit code 1: the model itself
    │   ├── LoadError           cannot be read: missing, truncated, not ONNX, external data gone
    │   ├── SaveError           cannot be written: folder missing, disk full
    │   └── UnsupportedError    can be read but not carried through without loss
    ├── DataError               exit code 1: samples that do not fit the model
    ├── RuntimeUnavailableError exit code 1: the sparse provider cannot be loaded here
    └── ProofError              exit code 3: the result differs from the original; nothing written

Every message says what happened, where (file, node or tensor), and what to do. That a unit cannot
be pruned is data with a reason, never an exception.
"""

from __future__ import annotations


class OnnxPruneError(Exception):
    """Base of every error this package raises on purpose; carries the process exit code."""

    exit_code = 1


class UsageError(OnnxPruneError):
    """The request itself cannot be meant: unknown name, ratio outside its range, pattern misfit."""

    exit_code = 2


class ModelError(OnnxPruneError):
    """Something is wrong with the model."""


class LoadError(ModelError):
    """The model cannot be read."""


class SaveError(ModelError):
    """The model cannot be written."""


class UnsupportedError(ModelError):
    """The model holds something that cannot be carried through without loss."""


class DataError(OnnxPruneError):
    """Samples cannot be read, or do not fit the model's inputs."""


class RuntimeUnavailableError(OnnxPruneError):
    """The sparse execution provider cannot be found, loaded or used here."""


class ProofError(OnnxPruneError):
    """The pruned model failed its proof or a threshold; nothing was written."""

    exit_code = 3
