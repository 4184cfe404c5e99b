"""Language models from transformers' definitions, two or three narrow layers each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .blocks import Wrap
from .registry import case

Built = tuple[nn.Module, tuple[Any, ...]]

_BS = {0: "batch", 1: "sequence"}
_TEXT: Mapping[str, Any] = {
    "inputs": ("input_ids", "attention_mask"),
    "fill": {"input_ids": 200, "attention_mask": "ones"},
    "dynamic": {"input_ids": _BS, "attention_mask": _BS},
    "kind": "transformer",
    "opset": 17,
}
_DYNAMO: Mapping[str, Mapping[str, Any]] = {"dynamo": {"exporter": "dynamo", "opset": 18}}
_SMALL: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "max_position_embeddings": 64,
}


def _ids(length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 200, (1, length)), torch.ones(1, length, dtype=torch.int64)


def _text(net: nn.Module, field: str, **fixed: Any) -> Built:
    return Wrap(net, ("input_ids", "attention_mask"), (field,), **fixed), _ids()


def _config(name: str, eager: bool = True, **arguments: Any) -> Any:
    import transformers

    config = getattr(transformers, name)(**arguments)
    config._attn_implementation = "eager" if eager else "sdpa"
    return config


def _model(name: str, config: Any) -> nn.Module:
    import transformers

    return getattr(transformers, name)(config)


@case(
    "bert",
    family="bert",
    variants={
        **_DYNAMO,
        "opset13": {"opset": 13},
        "newest": {"exporter": "dynamo", "opset": 23},
        "ort": {"post": ("ort",)},
        "fused": {"post": ("ort-bert",), "dynamic": {}},
    },
    **_TEXT,
)
def bert() -> Built:
    config = _config("BertConfig", num_labels=3, **_SMALL)
    return _text(_model("BertForSequenceClassification", config), "logits")


class _BertLayer(nn.Module):
    """One encoder layer spelled as the original BERT export is, which fusions look for."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** 0.5
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.dense = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        size = (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return x.view(size).permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key = self._split(self.query(x)), self._split(self.key(x))
        value = self._split(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / self.scale
        context = torch.matmul((scores + mask).softmax(-1), value).permute(0, 2, 1, 3).contiguous()
        context = context.view(x.shape)
        x = self.norm1(self.dense(context) + x)
        return self.norm2(self.down(nn.functional.gelu(self.up(x))) + x)


@case(
    "bert_classic",
    family="bert",
    variants={"ort": {"post": ("ort",)}, "fused": {"post": ("ort-bert",)}},
    **_TEXT,
)
def bert_classic() -> Built:
    class Bert(nn.Module):
        def __init__(self, width: int = 64) -> None:
            super().__init__()
            self.word, self.kind = nn.Embedding(200, width), nn.Embedding(2, width)
            self.place, self.norm = nn.Embedding(64, width), nn.LayerNorm(width)
            self.register_buffer("places", torch.arange(64)[None])
            self.layers = nn.ModuleList([_BertLayer(width, 4, 160) for _ in range(2)])
            self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10000.0
            place = self.place(self.places[:, : input_ids.shape[1]])
            x = self.word(input_ids) + self.kind(torch.zeros_like(input_ids)) + place
            x = self.norm(x)
            for layer in self.layers:
                x = layer(x, mask)
            return self.head(torch.tanh(self.pool(x[:, 0])))

    return Bert(), _ids()


@case("bert_sdpa", family="bert", **_TEXT)
def bert_sdpa() -> Built:
    config = _config("BertConfig", eager=False, num_labels=9, **_SMALL)
    return _text(_model("BertForTokenClassification", config), "logits")


@case("bert_masked_lm", family="bert", **_TEXT)
def bert_masked_lm() -> Built:
    return _text(_model("BertForMaskedLM", _config("BertConfig", **_SMALL)), "logits")


@case("roberta", family="bert", **_TEXT)
def roberta() -> Built:
    return _text(_model("RobertaModel", _config("RobertaConfig", **_SMALL)), "last_hidden_state")


@case("distilbert", family="distilbert", variants=_DYNAMO, **_TEXT)
def distilbert() -> Built:
    config = _config(
        "DistilBertConfig",
        vocab_size=200,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=160,
        num_labels=3,
    )
    return _text(_model("DistilBertForSequenceClassification", config), "logits")


@case("albert", family="albert", variants=_DYNAMO, **_TEXT)
def albert() -> Built:
    """One layer's weights used three times; factorised embedding."""
    arguments = {**_SMALL, "num_hidden_layers": 3, "embedding_size": 32}
    return _text(_model("AlbertModel", _config("AlbertConfig", **arguments)), "last_hidden_state")


@case("electra", family="electra", **_TEXT)
def electra() -> Built:
    config = _config("ElectraConfig", embedding_size=32, num_labels=2, **_SMALL)
    return _text(_model("ElectraForSequenceClassification", config), "logits")


@case("mpnet", family="mpnet", **_TEXT)
def mpnet() -> Built:
    """Relative position bias shared by the layers."""
    return _text(_model("MPNetModel", _config("MPNetConfig", **_SMALL)), "last_hidden_state")


@case("deberta_v2", family="deberta", **_TEXT)
def deberta_v2() -> Built:
    config = _config(
        "DebertaV2Config",
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_buckets=16,
        **_SMALL,
    )
    return _text(_model("DebertaV2Model", config), "last_hidden_state")


@case("modernbert", family="bert", **_TEXT)
def modernbert() -> Built:
    config = _config("ModernBertConfig", pad_token_id=0, **_SMALL)
    return _text(_model("ModernBertModel", config), "last_hidden_state")


@case(
    "gpt2",
    family="gpt2",
    variants={
        **_DYNAMO,
        "ort": {"post": ("ort",)},
        "fused": {"post": ("ort-gpt2",), "dynamic": {}},
    },
    **_TEXT,
)
def gpt2() -> Built:
    """Conv1D-as-Gemm, fused QKV split, embedding tied to the output matrix."""
    config = _config("GPT2Config", vocab_size=200, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    return _text(_model("GPT2LMHeadModel", config), "logits", use_cache=False)


@case("opt", family="opt", **_TEXT)
def opt() -> Built:
    arguments = {**_SMALL, "ffn_dim": 160, "word_embed_proj_dim": 64}
    del arguments["intermediate_size"]
    return _text(
        _model("OPTForCausalLM", _config("OPTConfig", **arguments)), "logits", use_cache=False
    )


@case("gpt_neox", family="gpt_neox", **_TEXT)
def gpt_neox() -> Built:
    """Parallel residual, partial rotary embedding, QKV interleaved per head."""
    config = _config("GPTNeoXConfig", rotary_pct=0.5, **_SMALL)
    return _text(_model("GPTNeoXForCausalLM", config), "logits", use_cache=False)


@case("bloom", family="bloom", **_TEXT)
def bloom() -> Built:
    """ALiBi and a QKV that interleaves q, k, v within each head."""
    config = _config("BloomConfig", vocab_size=200, hidden_size=64, n_layer=2, n_head=4)
    return _text(_model("BloomForCausalLM", config), "logits", use_cache=False)


@case("phi", family="phi", **_TEXT)
def phi() -> Built:
    config = _config("PhiConfig", pad_token_id=0, bos_token_id=1, eos_token_id=2, **_SMALL)
    return _text(_model("PhiForCausalLM", config), "logits", use_cache=False)


_GQA: dict[str, Any] = {**_SMALL, "num_key_value_heads": 2, "pad_token_id": 0}


@case(
    "llama",
    family="llama",
    variants={
        **_DYNAMO,
        "newest": {"exporter": "dynamo", "opset": 23, "dynamic": {}},
        "static": {"dynamic": {}},
    },
    **_TEXT,
)
def llama() -> Built:
    """RoPE, GQA, SwiGLU, RMSNorm."""
    return _text(
        _model("LlamaForCausalLM", _config("LlamaConfig", **_GQA)), "logits", use_cache=False
    )


@case("llama_sdpa", family="llama", **_TEXT)
def llama_sdpa() -> Built:
    config = _config("LlamaConfig", eager=False, tie_word_embeddings=True, **_GQA)
    return _text(_model("LlamaForCausalLM", config), "logits", use_cache=False)


@case("mistral", family="llama", **_TEXT)
def mistral() -> Built:
    config = _config("MistralConfig", sliding_window=8, **_GQA)
    return _text(_model("MistralForCausalLM", config), "logits", use_cache=False)


@case("qwen2", family="qwen", variants=_DYNAMO, **_TEXT)
def qwen2() -> Built:
    """Biases on q, k, v; tied embeddings."""
    config = _config("Qwen2Config", tie_word_embeddings=True, **_GQA)
    return _text(_model("Qwen2ForCausalLM", config), "logits", use_cache=False)


@case("qwen3", family="qwen", **_TEXT)
def qwen3() -> Built:
    """Per-head RMSNorm of q and k, head_dim of its own."""
    config = _config("Qwen3Config", head_dim=24, **_GQA)
    return _text(_model("Qwen3ForCausalLM", config), "logits", use_cache=False)


@case("gemma", family="gemma", **_TEXT)
def gemma() -> Built:
    """Multi-query attention, GeGLU, (1 + weight) RMSNorm."""
    arguments = {**_GQA, "num_key_value_heads": 1, "head_dim": 16}
    config = _config("GemmaConfig", **arguments)
    return _text(_model("GemmaForCausalLM", config), "logits", use_cache=False)


@case("mixtral", family="moe", exporter="dynamo", **{**_TEXT, "opset": 18, "dynamic": {}})
def mixtral() -> Built:
    config = _config("MixtralConfig", num_local_experts=4, num_experts_per_tok=2, **_GQA)
    config._experts_implementation = "batched_mm"  # the others need operators ONNX has not
    return _text(_model("MixtralForCausalLM", config), "logits", use_cache=False)


@case(
    "t5",
    family="t5",
    kind="transformer",
    inputs=("input_ids", "decoder_input_ids"),
    fill={"input_ids": 200, "decoder_input_ids": 200},
    dynamic={
        "input_ids": {0: "batch", 1: "source"},
        "decoder_input_ids": {0: "batch", 1: "target"},
    },
    opset=17,
    variants={"static": {"dynamic": {}, "opset": 13}},
)
def t5() -> Built:
    """Encoder-decoder, cross attention, relative position bias, RMSNorm without bias."""
    config = _config(
        "T5Config",
        vocab_size=200,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    names = ("input_ids", "decoder_input_ids")
    net = Wrap(_model("T5ForConditionalGeneration", config), names, ("logits",), use_cache=False)
    return net, (torch.randint(0, 200, (1, 10)), torch.randint(0, 200, (1, 7)))


@case(
    "t5_encoder",
    family="t5",
    variants=_DYNAMO,
    **_TEXT,
)
def t5_encoder() -> Built:
    config = _config(
        "T5Config", vocab_size=200, d_model=64, d_kv=12, d_ff=128, num_layers=2, num_heads=4
    )
    return _text(_model("T5EncoderModel", config), "last_hidden_state")


@case(
    "bart",
    family="bart",
    kind="transformer",
    inputs=("input_ids", "decoder_input_ids"),
    fill={"input_ids": 200, "decoder_input_ids": 200},
    dynamic={
        "input_ids": {0: "batch", 1: "source"},
        "decoder_input_ids": {0: "batch", 1: "target"},
    },
    opset=17,
)
def bart() -> Built:
    config = _config(
        "BartConfig",
        vocab_size=200,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
    )
    names = ("input_ids", "decoder_input_ids")
    net = Wrap(_model("BartForConditionalGeneration", config), names, ("logits",), use_cache=False)
    return net, (torch.randint(3, 200, (1, 10)), torch.randint(3, 200, (1, 7)))


@case(
    "mamba",
    family="mamba",
    **{**_TEXT, "inputs": ("input_ids",), "fill": {"input_ids": 200}, "dynamic": {}},
)
def mamba() -> Built:
    config = _config(
        "MambaConfig",
        vocab_size=200,
        hidden_size=48,
        state_size=8,
        num_hidden_layers=2,
        time_step_rank=4,
    )
    net = Wrap(_model("MambaForCausalLM", config), ("input_ids",), ("logits",), use_cache=False)
    return net, (torch.randint(0, 200, (1, 6)),)


class _Decoder(nn.Module):
    """One decoding step of a small own GPT with its key/value cache as inputs and outputs."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.place = nn.Embedding(200, width), nn.Embedding(64, width)
        self.norm1 = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
        self.norm2 = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
        self.qkv = nn.ModuleList([nn.Linear(width, 3 * width) for _ in range(layers)])
        self.out = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.up = nn.ModuleList([nn.Linear(width, 4 * width) for _ in range(layers)])
        self.down = nn.ModuleList([nn.Linear(4 * width, width) for _ in range(layers)])
        self.last = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, width = ids.shape[0], self.embed.weight.shape[1]
        x = self.embed(ids) + self.place(torch.full_like(ids, 0) + past.shape[4])
        present = []
        for index in range(len(self.qkv)):
            qkv = self.qkv[index](self.norm1[index](x))
            qkv = qkv.view(batch, 1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            keys = torch.cat([past[index, 0], qkv[1]], 2)
            values = torch.cat([past[index, 1], qkv[2]], 2)
            present.append(torch.stack([keys, values]))
            scores = qkv[0] @ keys.transpose(2, 3) / (width // self.heads) ** 0.5
            mixed = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, 1, width)
            x = x + self.out[index](mixed)
            hidden = nn.functional.gelu(self.up[index](self.norm2[index](x)))
            x = x + self.down[index](hidden)
        logits = nn.functional.linear(self.last(x), self.embed.weight)
        return logits, torch.stack(present)


@case(
    "gpt_kv_cache",
    family="gpt2",
    kind="transformer",
    inputs=("input_ids", "past"),
    outputs=("logits", "present"),
    fill={"input_ids": 200},
    opset=17,
)
def gpt_kv_cache() -> Built:
    return _Decoder(), (torch.randint(0, 200, (1, 1)), torch.randn(2, 2, 1, 4, 5, 16))
