"""Networks exported by Hugging Face Optimum: decoders with caches, encoder-decoders, vision, audio.

    python benchmarks/zoo/build_optimum.py --out .cache/zoo-optimum [--only RE] [--list]

Each network is made from its transformers configuration at a small size, given random weights
(randomize.py), saved, and exported by ``optimum.exporters.onnx.main_export`` for its task; every
file that writes becomes an entry of the manifest, which check.py reads. Files of transformers are
entered a second time as onnxruntime saves them at its EXTENDED level (``.ort``), and, where its
transformer optimizer knows the family, as that writes them (``.fused``).

Needs an environment of its own: optimum-onnx wants an older transformers than build.py does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import re
import shutil
import sys
import tempfile
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HIDDEN, HEADS, WIDE, VOCABULARY = 64, 4, 160, 100
#: The usual names of configurations.
USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": WIDE,
    "max_position_embeddings": 64,
}
#: Those of encoder-decoders in the style of BART.
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": WIDE,
    "decoder_ffn_dim": WIDE,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_layer": 2,
    "n_head": HEADS,
    "n_positions": 64,
}
VISION: dict[str, Any] = {
    **{k: v for k, v in USUAL.items() if k not in ("vocab_size", "max_position_embeddings")},
    "image_size": 64,
    "patch_size": 16,
    "num_labels": 5,
}
SPEECH: dict[str, Any] = {
    **{k: v for k, v in USUAL.items() if k != "max_position_embeddings"},
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WITH_PAST = "text-generation-with-past"
TRANSLATE = "text2text-generation-with-past"
FEATURES = "feature-extraction"
IMAGES = "image-classification"


@dataclass(frozen=True)
class Network:
    """One network of transformers and what it is exported for.

    model: class of transformers; config: class of its configuration; arguments: of that.
    task: as Optimum spells it. fused: name by which onnxruntime's transformer optimizer knows it.
    """

    model: str
    config: str
    task: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fused: str = ""
    kind: str = "transformer"
    opset: int | None = None


def _usual(**more: Any) -> dict[str, Any]:
    return {**USUAL, **more}


NETWORKS: dict[str, Network] = {
    # Decoders with a cache of keys and values.
    "gpt2": Network("GPT2LMHeadModel", "GPT2Config", WITH_PAST, GPT2, "gpt2"),
    "gpt2-plain": Network("GPT2LMHeadModel", "GPT2Config", "text-generation", GPT2, "gpt2"),
    "opt": Network(
        "OPTForCausalLM",
        "OPTConfig",
        WITH_PAST,
        {
            **{k: v for k, v in USUAL.items() if k != "intermediate_size"},
            "ffn_dim": WIDE,
            "word_embed_proj_dim": HIDDEN,
        },
    ),
    "llama": Network("LlamaForCausalLM", "LlamaConfig", WITH_PAST, _usual(num_key_value_heads=2)),
    "mistral": Network(
        "MistralForCausalLM", "MistralConfig", WITH_PAST, _usual(num_key_value_heads=2)
    ),
    "qwen2": Network("Qwen2ForCausalLM", "Qwen2Config", WITH_PAST, _usual(num_key_value_heads=2)),
    "qwen3": Network(
        "Qwen3ForCausalLM", "Qwen3Config", WITH_PAST, _usual(num_key_value_heads=2, head_dim=16)
    ),
    "phi": Network("PhiForCausalLM", "PhiConfig", WITH_PAST, USUAL),
    "phi3": Network("Phi3ForCausalLM", "Phi3Config", WITH_PAST, _usual(pad_token_id=0)),
    "gemma": Network(
        "GemmaForCausalLM", "GemmaConfig", WITH_PAST, _usual(num_key_value_heads=1, head_dim=16)
    ),
    "gemma2": Network(
        "Gemma2ForCausalLM", "Gemma2Config", WITH_PAST, _usual(num_key_value_heads=2, head_dim=16)
    ),
    "gpt_neox": Network("GPTNeoXForCausalLM", "GPTNeoXConfig", WITH_PAST, _usual(rotary_pct=0.5)),
    "gptj": Network("GPTJForCausalLM", "GPTJConfig", WITH_PAST, {**GPT2, "rotary_dim": 8}),
    "codegen": Network(
        "CodeGenForCausalLM", "CodeGenConfig", WITH_PAST, {**GPT2, "n_ctx": 64, "rotary_dim": 8}
    ),
    "bloom": Network(
        "BloomForCausalLM",
        "BloomConfig",
        WITH_PAST,
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": 2, "n_head": HEADS},
    ),
    "falcon": Network(
        "FalconForCausalLM", "FalconConfig", WITH_PAST, _usual(new_decoder_architecture=False)
    ),
    "mpt": Network(
        "MptForCausalLM",
        "MptConfig",
        WITH_PAST,
        {"vocab_size": VOCABULARY, "d_model": HIDDEN, "n_heads": HEADS, "n_layers": 2,
         "max_seq_len": 64},
    ),
    "stablelm": Network("StableLmForCausalLM", "StableLmConfig", WITH_PAST, USUAL),
    "olmo2": Network("Olmo2ForCausalLM", "Olmo2Config", WITH_PAST, USUAL),
    "granite": Network("GraniteForCausalLM", "GraniteConfig", WITH_PAST, USUAL),
    # Encoders and decoders, apart, with and without cache, and merged by If.
    "t5": Network(
        "T5ForConditionalGeneration",
        "T5Config",
        TRANSLATE,
        {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 16, "d_ff": WIDE, "num_layers": 2,
         "num_heads": HEADS, "decoder_start_token_id": 0},
        "t5",
    ),
    "flan_t5": Network(
        "T5ForConditionalGeneration",
        "T5Config",
        TRANSLATE,
        {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 16, "d_ff": WIDE, "num_layers": 2,
         "num_heads": HEADS, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu",
         "tie_word_embeddings": False},
    ),
    "bart": Network("BartForConditionalGeneration", "BartConfig", TRANSLATE, BART, "bart"),
    "marian": Network("MarianMTModel", "MarianConfig", TRANSLATE, {**BART, "pad_token_id": 1}),
    "pegasus": Network("PegasusForConditionalGeneration", "PegasusConfig", TRANSLATE, BART),
    "m2m_100": Network("M2M100ForConditionalGeneration", "M2M100Config", TRANSLATE, BART),
    "whisper": Network(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        "automatic-speech-recognition-with-past",
        {**{k: v for k, v in BART.items() if k != "max_position_embeddings"}, "num_mel_bins": 16,
         "max_source_positions": 1500, "max_target_positions": 64, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "suppress_tokens": None,
         "begin_suppress_tokens": None},
    ),
    # Encoders of text.
    "bert": Network("BertModel", "BertConfig", FEATURES, USUAL, "bert"),
    "bert-classes": Network(
        "BertForSequenceClassification", "BertConfig", "text-classification",
        _usual(num_labels=3), "bert",
    ),
    "bert-answers": Network(
        "BertForQuestionAnswering", "BertConfig", "question-answering", USUAL, "bert"
    ),
    "bert-masked": Network("BertForMaskedLM", "BertConfig", "fill-mask", USUAL, "bert"),
    "distilbert": Network(
        "DistilBertForTokenClassification",
        "DistilBertConfig",
        "token-classification",
        {"vocab_size": VOCABULARY, "dim": HIDDEN, "n_layers": 2, "n_heads": HEADS,
         "hidden_dim": WIDE, "max_position_embeddings": 64},
        "bert",
    ),
    "roberta": Network("RobertaModel", "RobertaConfig", FEATURES, USUAL, "bert"),
    "xlm_roberta": Network(
        "XLMRobertaForSequenceClassification", "XLMRobertaConfig", "text-classification", USUAL,
        "bert",
    ),
    "xlm": Network(
        "XLMModel", "XLMConfig", FEATURES,
        {"vocab_size": VOCABULARY, "emb_dim": HIDDEN, "n_layers": 2, "n_heads": HEADS,
         "max_position_embeddings": 64},
    ),
    "deberta": Network(
        "DebertaModel", "DebertaConfig", FEATURES,
        _usual(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    ),
    "deberta_v2": Network(
        "DebertaV2Model", "DebertaV2Config", FEATURES,
        _usual(relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=16),
    ),
    "mpnet": Network("MPNetModel", "MPNetConfig", FEATURES, USUAL),
    "albert": Network("AlbertModel", "AlbertConfig", FEATURES, _usual(embedding_size=32)),
    "electra": Network(
        "ElectraForSequenceClassification", "ElectraConfig", "text-classification",
        _usual(embedding_size=32),
    ),
    "camembert": Network("CamembertModel", "CamembertConfig", FEATURES, USUAL),
    "mobilebert": Network(
        "MobileBertModel", "MobileBertConfig", FEATURES,
        _usual(embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    ),
    "squeezebert": Network(
        "SqueezeBertModel", "SqueezeBertConfig", FEATURES, _usual(embedding_size=HIDDEN)
    ),
    "convbert": Network("ConvBertModel", "ConvBertConfig", FEATURES, _usual(embedding_size=32)),
    "roformer": Network("RoFormerModel", "RoFormerConfig", FEATURES, _usual(embedding_size=HIDDEN)),
    "nystromformer": Network(
        "NystromformerModel", "NystromformerConfig", FEATURES, _usual(segment_means_seq_len=64)
    ),
    "ibert": Network("IBertModel", "IBertConfig", FEATURES, USUAL),
    "rembert": Network(
        "RemBertModel", "RemBertConfig", FEATURES,
        _usual(input_embedding_size=32, output_embedding_size=32),
    ),
    "splinter": Network("SplinterModel", "SplinterConfig", FEATURES, USUAL),
    # Images.
    "vit": Network("ViTForImageClassification", "ViTConfig", IMAGES, VISION, "vit"),
    "deit": Network("DeiTForImageClassification", "DeiTConfig", IMAGES, VISION),
    "beit": Network(
        "BeitForImageClassification", "BeitConfig", IMAGES,
        {**VISION, "use_relative_position_bias": True},
    ),
    "dinov2": Network(
        "Dinov2ForImageClassification", "Dinov2Config", IMAGES,
        {k: v for k, v in VISION.items() if k != "intermediate_size"},
    ),
    "swin": Network(
        "SwinForImageClassification", "SwinConfig", IMAGES,
        {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2],
         "num_heads": [2, 4], "window_size": 4, "num_labels": 5}, "swin",
    ),
    "swinv2": Network(
        "Swinv2ForImageClassification", "Swinv2Config", IMAGES,
        {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2],
         "num_heads": [2, 4], "window_size": 4, "num_labels": 5},
    ),
    "segformer": Network(
        "SegformerForSemanticSegmentation", "SegformerConfig", "semantic-segmentation",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64], "decoder_hidden_size": 48,
         "num_attention_heads": [1, 2, 3, 4], "num_labels": 6},
    ),
    "convnext": Network(
        "ConvNextForImageClassification", "ConvNextConfig", IMAGES,
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 5}, kind="cnn",
    ),
    "resnet": Network(
        "ResNetForImageClassification", "ResNetConfig", IMAGES,
        {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1],
         "num_labels": 5}, kind="cnn",
    ),
    "regnet": Network(
        "RegNetForImageClassification", "RegNetConfig", IMAGES,
        {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1],
         "groups_width": 16, "num_labels": 5}, kind="cnn",
    ),
    "mobilenet_v2": Network(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", IMAGES,
        {"image_size": 64, "depth_multiplier": 0.5, "num_labels": 5}, kind="cnn",
    ),
    "mobilevit": Network(
        "MobileViTForImageClassification", "MobileViTConfig", IMAGES,
        {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40,
         48, 64], "num_attention_heads": 4, "num_labels": 5},
    ),
    "poolformer": Network(
        "PoolFormerForImageClassification", "PoolFormerConfig", IMAGES,
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_labels": 5}, kind="mixer",
    ),
    "pvt": Network(
        "PvtForImageClassification", "PvtConfig", IMAGES,
        {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
         "num_attention_heads": [1, 2, 3, 4], "num_labels": 5},
    ),
    "levit": Network(
        "LevitForImageClassification", "LevitConfig", IMAGES,
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4],
         "depths": [1, 1, 1], "key_dim": [8, 8, 8], "num_labels": 5},
    ),
    "cvt": Network(
        "CvtForImageClassification", "CvtConfig", IMAGES,
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 1, 2], "num_labels": 5},
    ),
    "yolos": Network(
        "YolosForObjectDetection", "YolosConfig", "object-detection",
        {**VISION, "image_size": [64, 64], "num_detection_tokens": 6},
    ),
    "detr": Network(
        "DetrForObjectDetection", "DetrConfig", "object-detection",
        {**{k: v for k, v in BART.items() if "token" not in k and k != "vocab_size"
            and k != "max_position_embeddings"},
         "num_queries": 6, "num_labels": 5, "use_timm_backbone": False, "use_pretrained_backbone":
         False, "backbone": None, "backbone_config": {"model_type": "resnet", "embedding_size": 16,
         "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "out_features": ["stage4"]}},
    ),
    "clip": Network(
        "CLIPModel", "CLIPConfig", "zero-shot-image-classification",
        {"text_config": {**USUAL, "eos_token_id": 2}, "vision_config": VISION,
         "projection_dim": 32},
    ),
    "siglip": Network(
        "SiglipModel", "SiglipConfig", "zero-shot-image-classification",
        {"text_config": USUAL, "vision_config": VISION},
    ),
    # Sound.
    "wav2vec2": Network(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", "automatic-speech-recognition",
        {**SPEECH, "vocab_size": 32},
    ),
    "hubert": Network(
        "HubertForSequenceClassification", "HubertConfig", "audio-classification",
        {**SPEECH, "num_labels": 5, "classifier_proj_size": 32},
    ),
    "ast": Network(
        "ASTForAudioClassification", "ASTConfig", "audio-classification",
        {**{k: v for k, v in VISION.items() if k != "image_size"}, "max_length": 64,
         "num_mel_bins": 32},
    ),
}  # fmt: skip
#: Sizes of symbolic dims that differ from those of written.py, by network.
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "whisper": {"feature_size": (16, 16), "nb_max_frames": (3000, 3000)},
    "wav2vec2": {"sequence_length": (1600, 2400)},
    "hubert": {"sequence_length": (1600, 2400)},
    "ast": {"num_mel_bins": (32, 32)},
}


def export(name: str, network: Network, folder: Path) -> list[Path]:
    """Export one network into a folder; return the files."""
    import torch
    import transformers
    from optimum.exporters.onnx import main_export

    from zoo.randomize import randomize

    torch.manual_seed(zlib.crc32(name.encode()))
    config = getattr(transformers, network.config)(**network.arguments)
    model = getattr(transformers, network.model)(config)
    randomize(model)
    model.eval()
    saved = folder / "saved"
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(saved)
        main_export(
            str(saved), folder / "onnx", task=network.task, opset=network.opset,
            do_validation=False, library_name="transformers",
        )  # fmt: skip
    return sorted((folder / "onnx").glob("*.onnx"))


def _variants(name: str, network: Network, path: Path) -> list[Path]:
    """Write the file as onnxruntime saves it, and as its transformer optimizer writes it."""
    from zoo.post import ort_extended, ort_transformer

    made = []
    extended = path.with_name(f"{path.stem}.ort.onnx")
    shutil.copyfile(path, extended)
    ort_extended(extended)
    made.append(extended)
    if network.fused:
        fused = path.with_name(f"{path.stem}.fused.onnx")
        shutil.copyfile(path, fused)
        ort_transformer(fused, network.fused)
        made.append(fused)
    return made


def main() -> int:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(".cache/zoo-optimum"))
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--force", action="store_true", help="rebuild what is already there")
    parser.add_argument("--list", action="store_true", help="print the networks and stop")
    given = parser.parse_args()
    if given.list:
        for name, network in NETWORKS.items():
            print(f"{name:20} {network.task}")
        return 0
    needed = ("torch", "transformers", "optimum", "onnx", "onnxruntime")
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        print("needs", *missing, "- pip install optimum-onnx onnxruntime; see README.md")
        return 1
    from zoo.written import Manifest, entry_of

    logging.disable(logging.WARNING)
    manifest = Manifest(given.out)
    done = {entry["arch"] for entry in manifest.models.values()}
    for name, network in NETWORKS.items():
        if not re.search(given.only, name) or (name in done and not given.force):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            try:
                files = export(name, network, Path(temporary))
            except Exception as error:
                manifest.fail(f"optimum.{name}", error)
                continue
            for file in files:
                part = "" if file.stem == "model" else f".{file.stem.removesuffix('_model')}"
                target = given.out / f"optimum.{name}{part}.onnx"
                shutil.copyfile(file, target)
                paths = [target]
                try:
                    paths += _variants(name, network, target)
                except Exception as error:
                    manifest.fail(f"{target.stem}.ort", error)
                for path in paths:
                    try:
                        entry = entry_of(
                            path, arch=name, family="optimum", kind=network.kind,
                            exporter="optimum", sizes=SIZES.get(name),
                        )  # fmt: skip
                    except Exception as error:
                        manifest.fail(path.stem, error)
                    else:
                        manifest.add(entry)
    print(len(manifest.models), "files,", len(manifest.failed), "failed, in", given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
