"""Import timm where no torchvision wheel fits the installed torch.

timm needs torchvision only for image loading (transforms, datasets) and for one `isinstance` test
(`FrozenBatchNorm2d`); its network definitions do not touch it. So the modules named below are
replaced by empty ones while timm is imported and taken away again afterwards, so that transformers,
which looks for torchvision by itself, correctly sees that there is none.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types

_MODULES = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.models.feature_extraction",
)


class _Member(type):
    """Class whose class attributes exist whatever their name (`InterpolationMode.BICUBIC`)."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


def _make(name: str) -> types.ModuleType:
    module = types.ModuleType(name, "empty stand-in, see benchmarks/zoo/stubs.py")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    made: dict[str, object] = {}

    def member(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return made.setdefault(attribute, _Member(attribute, (), {}))

    module.__getattr__ = member
    return module


def import_timm() -> types.ModuleType:
    """Return the timm module, imported with torchvision stood in for if it is not installed.

    Raises ImportError when timm itself is missing.
    """
    if "timm" in sys.modules:
        return sys.modules["timm"]
    stub = importlib.util.find_spec("torchvision") is None
    if stub:
        for name in _MODULES:
            module = _make(name)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    try:
        import timm
    finally:
        if stub:
            for name in _MODULES:
                del sys.modules[name]
    return timm
