"""Write vectors.json and hostile.json, which the C++ runtime is tested against.

Run from the repository root: ``PYTHONPATH=. python tests/formats/make_vectors.py``. The result only
changes when the layout or the samples change; a layout change needs a new blob version.
"""

from __future__ import annotations

import json
from pathlib import Path

from format_samples import hostile, vectors

HERE = Path(__file__).parent

if __name__ == "__main__":
    for name, content in (("vectors", vectors()), ("hostile", hostile())):
        lines = ",\n".join(json.dumps(item) for item in content)
        (HERE / f"{name}.json").write_text(f"[\n{lines}\n]\n")
