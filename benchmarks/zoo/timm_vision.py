"""Vision transformers, mixers and hybrids from timm's definitions, few blocks and narrow."""

from __future__ import annotations

from typing import Any

from .registry import BATCH
from .timm_cnn import timm_case

_DYNAMO = {"dynamo": {"exporter": "dynamo", "opset": 18}}
_TINY: dict[str, Any] = {"embed_dim": 96, "depth": 3, "num_heads": 4}
_VIT: dict[str, Any] = {"img_size": 64, **_TINY}


def _vision(name: str, size: int, family: str, kind: str = "transformer", **fields: Any) -> None:
    fields.setdefault("dynamic", BATCH)
    fields.setdefault("opset", 17)
    timm_case(name, size, family=family, kind=kind, **fields)


_vision(
    "vit_tiny_patch16_224",
    64,
    "vit",
    arch=_VIT,
    variants={
        **_DYNAMO,
        "newest": {"exporter": "dynamo", "opset": 23},
        "ort": {"post": ("ort",)},
    },
)
_vision("deit_tiny_distilled_patch16_224", 64, "vit", arch=_VIT)
_vision("beit_base_patch16_224", 64, "beit", arch=_VIT)
_vision("vit_tiny_patch16_224", 64, "vit", arch=_VIT, fused=False, opset=13)
_vision("eva02_tiny_patch14_224", 56, "eva", fused=False, arch={"img_size": 56, **_TINY})
_vision(
    "cait_xxs24_224", 64, "cait", arch={"img_size": 64, "embed_dim": 96, "depth": 3, "num_heads": 4}
)
_vision("crossvit_tiny_240", 240, "crossvit", arch={"depth": ((1, 1, 0),), "embed_dim": (48, 96)})
_vision(
    "convit_tiny",
    64,
    "convit",
    arch={"img_size": 64, "embed_dim": 16, "depth": 3, "local_up_to_layer": 2},
)
_vision(
    "xcit_nano_12_p8_224",
    64,
    "xcit",
    arch={"img_size": 64, "embed_dim": 96, "depth": 2, "num_heads": 4},
)
_vision(
    "levit_128s",
    224,
    "levit",
    arch={"embed_dim": (64, 96, 128), "num_heads": (2, 3, 4), "depth": (1, 1, 1)},
)
_vision("pvt_v2_b0", 64, "pvt", arch={"depths": (1, 1, 1, 1)})
_vision(
    "twins_svt_small",
    64,
    "twins",
    arch={
        "img_size": 64,
        "embed_dims": (32, 48, 64, 96),
        "num_heads": (2, 3, 4, 6),
        "depths": (2, 2, 2, 2),
    },
)
_SWIN: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
_vision(
    "swin_tiny_patch4_window7_224",
    64,
    "swin",
    arch={**_SWIN, "window_size": 4},
    variants={**_DYNAMO, "opset13": {"opset": 13, "dynamic": {}}},
)
_vision("swinv2_tiny_window8_256", 64, "swin", arch={**_SWIN, "window_size": 4})
_vision("test_maxvit", 64, "maxvit", arch={"img_size": 64})
_vision("edgenext_xx_small", 64, "edgenext")
_vision("mobilevit_xxs", 64, "mobilevit", variants=_DYNAMO)
_vision("mobilevitv2_050", 64, "mobilevit")
_vision("efficientvit_b0", 64, "efficientvit")
_vision("efficientformerv2_s0", 224, "efficientformer", dynamic={})
_vision("focalnet_tiny_srf", 64, "focalnet", arch={"embed_dim": 32, "depths": (1, 1, 2, 1)})
_vision(
    "davit_tiny",
    64,
    "davit",
    arch={"embed_dims": (32, 48, 64, 96), "num_heads": (2, 3, 4, 6), "depths": (1, 1, 1, 1)},
)
_vision(
    "nest_tiny",
    64,
    "nest",
    arch={"img_size": 64, "embed_dims": (32, 64, 96), "num_heads": (2, 4, 6), "depths": (1, 1, 2)},
)
_vision(
    "volo_d1_224",
    64,
    "volo",
    exporter="dynamo",
    opset=18,
    dynamic={},
    arch={
        "img_size": 64,
        "embed_dims": (48, 96, 96, 96),
        "num_heads": (2, 4, 4, 4),
        "layers": (1, 1, 1, 1),
    },
)
_vision(
    "hiera_tiny_224",
    64,
    "hiera",
    arch={"img_size": (64, 64), "embed_dim": 32, "stages": (1, 1, 2, 1)},
)
_vision(
    "visformer_tiny", 64, "visformer", arch={"img_size": 64, "embed_dim": 96, "depth": (2, 1, 1)}
)

_MIX: dict[str, Any] = {"img_size": 64, "embed_dim": 96, "num_blocks": 3}
_vision("mixer_s16_224", 64, "mlp_mixer", "mixer", arch=_MIX, variants=_DYNAMO)
_vision("gmlp_ti16_224", 64, "gmlp", "mixer", arch=_MIX, variants=_DYNAMO)
_vision("resmlp_12_224", 64, "resmlp", "mixer", arch=_MIX)
_META: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (32, 48, 64, 96)}
_vision("poolformer_s12", 64, "poolformer", "mixer", arch=_META, variants=_DYNAMO)
_vision("poolformerv2_s12", 64, "poolformer", "mixer", arch=_META)
_vision("caformer_s18", 64, "metaformer", arch=_META)
_vision("convformer_s18", 64, "metaformer", "mixer", arch=_META)
_vision(
    "convmixer_768_32",
    63,
    "convmixer",
    "mixer",
    arch={"dim": 96, "depth": 4},
    variants={"unfolded": {"unfolded": True}},
)
_vision(
    "sequencer2d_s",
    64,
    "sequencer",
    "mixer",
    dynamic={},
    arch={
        "img_size": 64,
        "embed_dims": (48, 64, 96, 96),
        "hidden_sizes": (12, 16, 24, 24),
        "layers": (1, 1, 1, 1),
    },
)
