"""The sparse execution provider from Python: find it, register it, run models with it, ask it why.

``available`` says whether it can be used here and if not why; ``session`` makes an
``onnxruntime.InferenceSession`` that uses it; ``explain`` and ``profile`` read what it decided and
measured; ``doctor`` gathers everything a bug report needs. The package works without the library:
only ``session`` then raises.
"""

from onnxprune.runtime.decisions import Decision, StepTime, explain, profile
from onnxprune.runtime.doctor import doctor
from onnxprune.runtime.library import PROVIDER, available, library_path, register
from onnxprune.runtime.sessions import OPTIONS, session

__all__ = [
    "OPTIONS",
    "PROVIDER",
    "Decision",
    "StepTime",
    "available",
    "doctor",
    "explain",
    "library_path",
    "profile",
    "register",
    "session",
]
