"""Speech, vision and multi-modal transformers from transformers' definitions, at small sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .blocks import Wrap, image
from .language import _config, _model
from .registry import BATCH, case

Built = tuple[nn.Module, tuple[Any, ...]]
_DYNAMO: Mapping[str, Mapping[str, Any]] = {"dynamo": {"exporter": "dynamo", "opset": 18}}
_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}


def _pixels(net: nn.Module, field: str, size: int = 64, **fixed: Any) -> Built:
    return Wrap(net, ("pixel_values",), (field,), **fixed), (image(size),)


@case("hf_vit", family="vit", kind="transformer", dynamic=BATCH, variants=_DYNAMO)
def hf_vit() -> Built:
    config = _config("ViTConfig", num_labels=5, **_VISION)
    return _pixels(_model("ViTForImageClassification", config), "logits")


@case("dinov2", family="vit", kind="transformer")
def dinov2() -> Built:
    """Layer scale, SwiGLU, interpolated positions."""
    arguments = {**_VISION, "patch_size": 16, "use_swiglu_ffn": True}
    del arguments["intermediate_size"]
    return _pixels(_model("Dinov2Model", _config("Dinov2Config", **arguments)), "last_hidden_state")


@case(
    "segformer",
    family="segformer",
    kind="transformer",
    dynamic=BATCH,
    variants={"dynamo": {"exporter": "dynamo", "opset": 18, "dynamic": {}}},
)
def segformer() -> Built:
    """Hierarchical transformer with depth-wise convolutions in the FFN and an all-MLP decoder."""
    config = _config(
        "SegformerConfig",
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        decoder_hidden_size=48,
        num_attention_heads=[1, 2, 3, 4],
        num_labels=6,
    )
    return _pixels(_model("SegformerForSemanticSegmentation", config), "logits")


@case("mobilevit_deeplab", family="mobilevit", kind="transformer")
def mobilevit_deeplab() -> Built:
    config = _config(
        "MobileViTConfig",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96],
        num_attention_heads=4,
        aspp_out_channels=32,
        num_labels=6,
    )
    return _pixels(_model("MobileViTForSemanticSegmentation", config), "logits")


@case("upernet_convnext", family="upernet", kind="segmentation")
def upernet_convnext() -> Built:
    backbone = _config(
        "ConvNextConfig",
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = _config(
        "UperNetConfig",
        backbone_config=backbone,
        hidden_size=32,
        pool_scales=[1, 2],
        num_labels=6,
        auxiliary_in_channels=48,
        auxiliary_channels=16,
    )
    return _pixels(_model("UperNetForSemanticSegmentation", config), "logits")


@case("dpt_depth", family="dpt", kind="transformer")
def dpt_depth() -> Built:
    """Reassembled ViT features at four scales, refined by convolutions."""
    arguments = {**_VISION, "num_hidden_layers": 4}
    config = _config(
        "DPTConfig",
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 24, 32, 48],
        fusion_hidden_size=32,
        is_hybrid=False,
        **arguments,
    )
    return _pixels(_model("DPTForDepthEstimation", config), "predicted_depth")


@case("swin2sr", family="superres", kind="transformer")
def swin2sr() -> Built:
    config = _config(
        "Swin2SRConfig",
        image_size=16,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=8,
        upscale=2,
        upsampler="pixelshuffle",
        num_channels_out=3,
        mlp_ratio=2.0,
    )
    return _pixels(_model("Swin2SRForImageSuperResolution", config), "reconstruction", 16)


@case("detr", family="detr", kind="transformer", outputs=("logits", "boxes"))
def detr() -> Built:
    """Encoder-decoder over convolutional features with learned queries, own definition."""

    class DETR(nn.Module):
        def __init__(self, width: int = 48) -> None:
            super().__init__()
            parts: list[nn.Module] = []
            for cin, cout in ((3, 16), (16, 32), (32, 48), (48, 64)):
                parts += [nn.Conv2d(cin, cout, 3, 2, 1), nn.BatchNorm2d(cout), nn.ReLU()]
            self.body = nn.Sequential(*parts, nn.Conv2d(64, width, 1))
            enc = nn.TransformerEncoderLayer(width, 4, 96, batch_first=True)
            dec = nn.TransformerDecoderLayer(width, 4, 96, batch_first=True)
            self.enc = nn.TransformerEncoder(enc, 2, enable_nested_tensor=False)
            self.dec = nn.TransformerDecoder(dec, 2)
            self.place = nn.Parameter(torch.randn(1, 16, width))
            self.query = nn.Parameter(torch.randn(1, 10, width))
            self.cls = nn.Linear(width, 6)
            self.box = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            memory = self.enc(self.body(x).flatten(2).transpose(1, 2) + self.place)
            y = self.dec(self.query, memory)
            return self.cls(y), self.box(y).sigmoid()

    torch.backends.mha.set_fastpath_enabled(False)
    return DETR(), (image(64),)


_CLIP_TEXT: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
    "eos_token_id": 2,
}


@case(
    "clip",
    family="clip",
    kind="transformer",
    inputs=("input_ids", "pixel_values", "attention_mask"),
    outputs=("logits_per_image", "text_embeds", "image_embeds"),
    fill={"input_ids": 200, "attention_mask": "ones"},
    variants={"dynamo": {"exporter": "dynamo", "opset": 18}},
)
def clip() -> Built:
    """Two towers, normalised embeddings, logit scale."""
    config = _config(
        "CLIPConfig", text_config=dict(_CLIP_TEXT), vision_config=dict(_VISION), projection_dim=32
    )
    for part in (config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    names = ("input_ids", "pixel_values", "attention_mask")
    fields = ("logits_per_image", "text_embeds", "image_embeds")
    ids = torch.randint(3, 200, (2, 9))
    return Wrap(_model("CLIPModel", config), names, fields), (ids, image(64), torch.ones_like(ids))


@case("clip_vision", family="clip", kind="transformer", dynamic=BATCH)
def clip_vision() -> Built:
    config = _config("CLIPVisionConfig", projection_dim=32, **_VISION)
    return _pixels(_model("CLIPVisionModelWithProjection", config), "image_embeds")


_WHISPER: dict[str, Any] = {
    "vocab_size": 200,
    "num_mel_bins": 20,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@case(
    "whisper",
    family="whisper",
    kind="transformer",
    exporter="dynamo",
    opset=18,
    inputs=("input_features", "decoder_input_ids"),
    fill={"decoder_input_ids": 200},
)
def whisper() -> Built:
    names = ("input_features", "decoder_input_ids")
    net = _model("WhisperForConditionalGeneration", _config("WhisperConfig", **_WHISPER))
    args = (torch.randn(1, 20, 64), torch.randint(3, 200, (1, 6)))
    return Wrap(net, names, ("logits",), use_cache=False), args


@case("whisper_encoder", family="whisper", kind="transformer", dynamic=BATCH, variants=_DYNAMO)
def whisper_encoder() -> Built:
    net = _model("WhisperModel", _config("WhisperConfig", **_WHISPER)).encoder
    return Wrap(net, ("input_features",), ("last_hidden_state",)), (torch.randn(1, 20, 64),)


@case(
    "wav2vec2",
    family="wav2vec2",
    kind="transformer",
    dynamic={"input": {0: "batch", 1: "time"}},
    other={"time": 1600},
)
def wav2vec2() -> Built:
    """Seven-fold strided Conv1d front end, grouped positional convolution with weight norm."""
    config = _config(
        "Wav2Vec2Config",
        vocab_size=30,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[32, 32, 32],
        conv_kernel=[10, 3, 3],
        conv_stride=[5, 4, 4],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    net = Wrap(_model("Wav2Vec2ForCTC", config), ("input_values",), ("logits",))
    return net, (torch.randn(1, 1280),)


@case("hubert_stable", family="wav2vec2", kind="transformer")
def hubert_stable() -> Built:
    config = _config(
        "HubertConfig",
        vocab_size=30,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[32, 32, 32],
        conv_kernel=[10, 3, 3],
        conv_stride=[5, 4, 4],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    net = Wrap(_model("HubertForCTC", config), ("input_values",), ("logits",))
    return net, (torch.randn(1, 1280),)


@case("ast_audio", family="ast", kind="transformer", dynamic=BATCH)
def ast_audio() -> Built:
    arguments = {**_VISION, "max_length": 64, "num_mel_bins": 32, "num_labels": 7}
    del arguments["image_size"]
    net = _model("ASTForAudioClassification", _config("ASTConfig", **arguments))
    return Wrap(net, ("input_values",), ("logits",)), (torch.randn(1, 64, 32),)


@case(
    "conformer", family="conformer", kind="transformer", dynamic={"input": {0: "batch", 1: "time"}}
)
def conformer() -> Built:
    """Half-step FFNs, attention, gated pointwise and depth-wise convolution, own definition."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            ffn = [
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.SiLU(),
                nn.Linear(4 * width, width),
            ]
            self.first = nn.Sequential(*ffn)
            self.norm, self.heads = nn.LayerNorm(width), 4
            self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
            self.v, self.out = nn.Linear(width, width), nn.Linear(width, width)
            self.conv_norm = nn.LayerNorm(width)
            self.gate = nn.Conv1d(width, 2 * width, 1)
            self.deep = nn.Conv1d(width, width, 7, padding=3, groups=width)
            self.bn, self.point = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1)
            self.last = nn.LayerNorm(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 0.5 * self.first(x)
            y = self.norm(x)
            batch, time, width = y.shape
            shape = (batch, time, self.heads, width // self.heads)
            q, k, v = (f(y).reshape(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = (q @ k.transpose(2, 3) / shape[3] ** 0.5).softmax(-1) @ v
            x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
            y = nn.functional.glu(self.gate(self.conv_norm(x).transpose(1, 2)), 1)
            y = self.point(nn.functional.silu(self.bn(self.deep(y))))
            return self.last(x + y.transpose(1, 2))

    net = nn.Sequential(nn.Linear(24, 48), Block(48), Block(48), nn.Linear(48, 20))
    return net, (torch.randn(1, 30, 24),)
