"""What every test may count on, whether onnxprune is installed or only checked out."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
_WHY_SKIPPED = "the shared networks (../shared/data) are not on this machine"

hypothesis.settings.register_profile(
    "onnxprune",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("onnxprune")


class _PassesFinder:
    """Finds ``onnxprune.passes`` in the top-level ``passes/``, as the built wheel has it."""

    name = "onnxprune.passes"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        folder = REPOSITORY / "passes"
        return importlib.util.spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


if importlib.util.find_spec("onnxprune") is None:
    sys.path.insert(0, str(REPOSITORY))
# Last in line, so that an installed onnxprune.passes wins.
sys.meta_path.append(_PassesFinder())


def shared_models() -> list[Path]:
    """Return every network of the shared data, sorted; empty where there is none."""
    return sorted(SHARED_DATA.glob("*/*.onnx"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared networks and data; skips where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(_WHY_SKIPPED)
    return SHARED_DATA


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``shared_model`` once for the path of every shared network."""
    if "shared_model" not in metafunc.fixturenames:
        return
    models = shared_models()
    if models:
        ids = [f"{p.parent.name}/{p.stem}" for p in models]
        metafunc.parametrize("shared_model", models, ids=ids)
    else:
        skipped = pytest.param(None, marks=pytest.mark.skip(reason=_WHY_SKIPPED))
        metafunc.parametrize("shared_model", [skipped], ids=["absent"])
