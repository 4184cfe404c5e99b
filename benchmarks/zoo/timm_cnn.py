"""Convolutional networks from timm's definitions, at reduced width where timm lets us say so."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from .blocks import image
from .registry import BATCH, BHW, case
from .stubs import import_timm

Built = tuple[nn.Module, tuple[Any, ...]]

_DYNAMO: Mapping[str, Mapping[str, Any]] = {"dynamo": {"exporter": "dynamo", "opset": 18}}
_UNFOLDED: Mapping[str, Mapping[str, Any]] = {"unfolded": {"unfolded": True}}


def _create(name: str, arch: Mapping[str, Any]) -> nn.Module:
    """timm's network `name` with constructor arguments replaced by `arch`.

    timm's entry points fix some arguments; so the call that they end in is intercepted.
    """
    timm = import_timm()
    entry = timm.models.model_entrypoint(name)
    module = sys.modules[entry.__module__]
    original = module.build_model_with_cfg

    def build(cls: Any, variant: str, pretrained: bool, **kwargs: Any) -> Any:
        return original(cls, variant, pretrained, **{**kwargs, **arch})

    module.build_model_with_cfg = build
    try:
        return timm.create_model(name, pretrained=False, num_classes=10)
    finally:
        module.build_model_with_cfg = original


def timm_case(
    name: str,
    size: int,
    *,
    family: str,
    kind: str = "cnn",
    arch: Mapping[str, Any] | None = None,
    fused: bool = True,
    **fields: Any,
) -> None:
    """Register timm's network `name` on [1, 3, size, size]; `arch` goes to its constructor.

    fused=False spells attention out as MatMul, Softmax, MatMul, as exporters before opset 14 must;
    the case is then called `<name>_unfused`.
    """

    def build() -> Built:
        timm = import_timm()
        timm.layers.set_fused_attn(fused)
        return _create(name, arch or {}), (image(size),)

    case(name if fused else f"{name}_unfused", family=family, kind=kind, **fields)(build)


_SMALL = {"channels": (24, 48, 72, 96), "layers": (1, 2, 2, 1), "stem_width": 16}

timm_case("mobilenetv1_100", 64, family="mobilenet", opset=11, dynamic=BATCH)
timm_case(
    "mobilenetv2_050",
    64,
    family="mobilenet",
    opset=13,
    dynamic=BHW,
    variants={**_DYNAMO, **_UNFOLDED, "ort": {"post": ("ort",)}, "keras": {"post": ("keras",)}},
)
timm_case(
    "mobilenetv3_small_050", 64, family="mobilenet", opset=13, dynamic=BATCH, variants=_DYNAMO
)
timm_case("mobilenetv3_large_100", 64, family="mobilenet", opset=17, dynamic=BATCH)
timm_case("mobilenetv4_conv_small", 64, family="mobilenet", opset=17, dynamic=BATCH)
timm_case("mnasnet_small", 64, family="mnasnet", opset=11, dynamic=BATCH)
timm_case("semnasnet_050", 64, family="mnasnet", opset=13)
timm_case("efficientnet_b0", 64, family="efficientnet", opset=17, dynamic=BATCH, variants=_UNFOLDED)
timm_case("efficientnet_lite0", 64, family="efficientnet", opset=13, dynamic=BATCH)
timm_case("tf_efficientnetv2_b0", 64, family="efficientnet", opset=17, dynamic=BATCH)
timm_case("mixnet_s", 64, family="mixnet", opset=13, dynamic=BATCH)
timm_case("fbnetc_100", 64, family="fbnet", opset=13)
timm_case("tinynet_e", 96, family="tinynet", opset=17, dynamic=BATCH)
timm_case("lcnet_035", 64, family="lcnet", opset=13, dynamic=BATCH)
timm_case("hardcorenas_a", 64, family="hardcorenas", opset=13)
timm_case("rexnet_100", 64, family="rexnet", opset=13, dynamic=BATCH)
timm_case("regnetx_002", 64, family="regnet", opset=13, dynamic=BATCH)
timm_case("regnety_002", 64, family="regnet", opset=17, dynamic=BATCH, variants=_DYNAMO)
timm_case("ghostnet_050", 64, family="ghostnet", opset=13, dynamic=BATCH)
timm_case("ghostnetv2_100", 64, family="ghostnet", opset=17, dynamic=BATCH)
timm_case("repghostnet_050", 64, family="ghostnet", opset=17)
timm_case("dla46_c", 64, family="dla", opset=13, dynamic=BATCH)
timm_case("dla46x_c", 64, family="dla", opset=17, variants=_DYNAMO)
timm_case("ese_vovnet19b_slim_dw", 64, family="vovnet", opset=13, dynamic=BATCH)
timm_case("mobileone_s0", 64, family="mobileone", opset=13, dynamic=BATCH)
timm_case("convnext_atto", 64, family="convnext", opset=17, dynamic=BATCH, variants=_DYNAMO)
timm_case("convnextv2_atto", 64, family="convnext", opset=17, dynamic=BATCH)
timm_case("inception_next_atto", 64, family="inception_next", opset=17, dynamic=BATCH)
timm_case("starnet_s1", 64, family="starnet", opset=17, dynamic=BATCH)
timm_case("fastvit_t8", 64, family="fastvit", opset=17, dynamic=BATCH)
timm_case("test_nfnet", 64, family="nfnet", opset=17, dynamic=BATCH)
timm_case("test_byobnet", 64, family="byobnet", opset=17, dynamic=BATCH)
timm_case("test_efficientnet", 64, family="efficientnet", opset=13, dynamic=BATCH, variants=_DYNAMO)
timm_case("mambaout_femto", 64, family="mambaout", opset=17, dynamic=BATCH)
timm_case("hgnetv2_b0", 64, family="hgnet", opset=17, dynamic=BATCH)
timm_case("repvit_m0_9", 64, family="repvit", opset=17, dynamic=BATCH)
timm_case("skresnet18", 64, family="sknet", opset=17, dynamic=BATCH, arch=_SMALL)
timm_case("resnest14d", 64, family="resnest", opset=17, dynamic=BATCH, arch=_SMALL)
timm_case("ecaresnet26t", 64, family="ecanet", opset=17, dynamic=BATCH, arch=_SMALL)
timm_case(
    "res2net50_26w_4s", 64, family="res2net", opset=13, dynamic=BATCH, arch=_SMALL, variants=_DYNAMO
)
timm_case("gcresnext26ts", 64, family="gcnet", opset=17, arch={"width_factor": 0.5})
timm_case("repvgg_a0", 64, family="repvgg", opset=13, dynamic=BATCH, arch={"width_factor": 0.5})
timm_case(
    "dpn48b",
    64,
    family="dual_path",
    opset=13,
    dynamic=BATCH,
    arch={
        "num_init_features": 16,
        "k_r": 48,
        "groups": 8,
        "k_sec": (2, 2, 3, 2),
        "inc_sec": (8, 16, 16, 32),
    },
    variants=_DYNAMO,
)


@case("hrnet_w8_small", family="hrnet", opset=13, dynamic=BATCH, variants=_DYNAMO)
def hrnet() -> Built:
    import_timm()
    from timm.models.hrnet import HighResolutionNet

    def stage(modules: int, width: int, branches: int) -> dict[str, Any]:
        return {
            "num_modules": modules,
            "num_branches": branches,
            "block_type": "BASIC",
            "num_blocks": (1,) * branches,
            "num_channels": tuple(width * 2**i for i in range(branches)),
            "fuse_method": "SUM",
        }

    first = {
        "num_modules": 1,
        "num_branches": 1,
        "block_type": "BOTTLENECK",
        "num_blocks": (1,),
        "num_channels": (16,),
        "fuse_method": "SUM",
    }
    cfg = {
        "stem_width": 16,
        "stage1": first,
        "stage2": stage(1, 8, 2),
        "stage3": stage(1, 8, 3),
        "stage4": stage(1, 8, 4),
    }
    return HighResolutionNet(cfg, num_classes=10, head=""), (image(64),)


@case("selecsls42_small", family="selecsls", opset=13, dynamic=BATCH)
def selecsls() -> Built:
    import_timm()
    from timm.models.selecsls import SelecSls, SelecSlsBlock

    features = [
        (32, 0, 32, 32, True, 2),
        (32, 32, 32, 64, False, 1),
        (64, 0, 72, 72, True, 2),
        (72, 72, 72, 128, False, 1),
        (128, 0, 96, 96, True, 2),
        (96, 96, 96, 160, False, 1),
    ]
    cfg = {
        "block": SelecSlsBlock,
        "features": features,
        "head": [(160, 128, 3, 2), (128, 96, 3, 1), (96, 128, 3, 2), (128, 128, 1, 1)],
        "num_features": 128,
        "feature_info": [{"num_chs": 32, "reduction": 2, "module": "stem.2"}],
    }
    return SelecSls(cfg, num_classes=10), (image(64),)
