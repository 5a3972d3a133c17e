"""Write ``docs/models.md``: the verdict on many families of models, each built tiny and tried.

Run as ``python docs/families.py``; with names of families it prints their rows and writes nothing.
A test compares the committed page with what this gives.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from afcore.conformance.heads import find_head
from afcore.conformance.opened_model import build_random
from afcore.conformance.verdict import Conformance, check_opened

__all__ = ["FAMILIES", "page", "row", "try_family"]

_PAGE = Path(__file__).parent / "models.md"
_INTRO = """# Models

<!-- Written by docs/families.py; change the families there and run it again. -->

What `autofreeze check-model` says of {count} families of Transformers {version}, each built tiny
(four blocks, width 32) from its configuration class, with random weights, none of them zero.
{verdicts}. Your own model: `autofreeze check-model FOLDER`.

* **cached**: at every boundary the suffix on stored hidden states (each example computed alone,
  padding read back as zeros) has the outputs, the loss and the gradients of the whole model, in
  float64 where the model's code runs in it, within 1e-5 of the largest; and a step of training
  above the boundary changes nothing below it.
* **freeze only**: blocks can be frozen, but what they put out is no function of the example alone,
  or has no row for each token. `mode: freeze` trains it, `cached` does so without a cache.
* **unsupported**: it can neither be frozen nor cached. `mode: full` may train it.

Bytes of a set per token are those of the tiny model; a set holds `4 h` bytes a token in fp32, `2 h`
in bf16 and `h + 4` in int8, of each tensor of width `h`. Whether there is a task
for a head is another question: see the README.

| family | class | head for | blocks | verdict | fp32, bf16, int8 bytes per token | why |
|---|---|---|---|---|---|---|
"""

_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_DECODER = _TEXT | {
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS = _DECODER | {"head_dim": 8}
_EXPERTS = _HEADS | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_LATENT = _EXPERTS | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 4,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_PICTURES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}
_STAGES: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 4],
    "window_size": 4,
}
_SOUND: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
_NORMED = _SOUND | {"feat_extract_norm": "layer"}
_SPECTRUM: dict[str, Any] = {"num_mel_bins": 16, "max_source_positions": 16, "vocab_size": 64}
_GPT2: dict[str, Any] = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
}
_ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_XLM: dict[str, Any] = {"n_words": 64, "vocab_size": 64, "emb_dim": 32, "n_layers": 4, "n_heads": 4}
_MAMBA2: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "state_size": 8,
    "num_heads": 8,
    "head_dim": 8,
    "n_groups": 1,
    "chunk_size": 8,
} | _ENDS
_PYRAMID: dict[str, Any] = {
    "hidden_sizes": [8, 16, 32, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 4],
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    # Encoders of text.
    "BERT": ("bert", _TEXT),
    "RoBERTa": ("roberta", _TEXT),
    "XLM-RoBERTa": ("xlm-roberta", _TEXT),
    "CamemBERT": ("camembert", _TEXT),
    "ELECTRA": ("electra", _TEXT | {"embedding_size": 16}),
    "DistilBERT": (
        "distilbert",
        {"vocab_size": 64, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64},
    ),
    "MPNet": ("mpnet", _TEXT),
    "DeBERTa": (
        "deberta",
        _TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "DeBERTa-v3": (
        "deberta-v2",
        _TEXT
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "ModernBERT": (
        "modernbert",
        _TEXT
        | {"local_attention": 4, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
        | {"pad_token_id": 0, "bos_token_id": 1},
    ),
    "NomicBERT": ("nomic_bert", _TEXT),
    "EuroBERT": ("eurobert", _HEADS),
    "ESM": ("esm", _TEXT | {"pad_token_id": 1, "mask_token_id": 3}),
    "LayoutLM": ("layoutlm", _TEXT),
    "LiLT": ("lilt", _TEXT | {"hidden_size": 48, "channel_shrink_ratio": 2}),
    "ALBERT": ("albert", _TEXT | {"embedding_size": 16}),
    "MobileBERT": (
        "mobilebert",
        _TEXT | {"embedding_size": 32, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "ConvBERT": ("convbert", _TEXT | {"embedding_size": 32}),
    "FNet": ("fnet", _TEXT),
    "Nystromformer": ("nystromformer", _TEXT | {"num_landmarks": 64, "segment_means_seq_len": 64}),
    "BigBird": ("big_bird", _TEXT | {"block_size": 2, "num_random_blocks": 1, **_ENDS}),
    "Longformer": ("longformer", _TEXT | {"attention_window": 4}),
    "XLNet": ("xlnet", {"vocab_size": 64, "d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64}),
    "Funnel": (
        "funnel",
        {"vocab_size": 64, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
        | {"block_sizes": [2, 2], "num_decoder_layers": 1},
    ),
    "CANINE": ("canine", _TEXT | {"num_hash_buckets": 64, "local_transformer_stride": 16}),
    "ERNIE": ("ernie", _TEXT),
    "RoFormer": ("roformer", _TEXT),
    "RemBERT": ("rembert", _TEXT | {"input_embedding_size": 16, "output_embedding_size": 16}),
    "MegatronBERT": ("megatron-bert", _TEXT),
    "I-BERT": ("ibert", _TEXT),
    "MRA": ("mra", _TEXT),
    "YOSO": ("yoso", _TEXT),
    "SqueezeBERT": (
        "squeezebert",
        _TEXT
        | {"embedding_size": 32}
        | {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention")}
        | {f"{part}_groups": 1 for part in ("intermediate", "output")},
    ),
    "XLM": ("xlm", _XLM),
    "FlauBERT": ("flaubert", _XLM),
    "Reformer": (
        "reformer",
        {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "attention_head_size": 8}
        | {"feed_forward_size": 64, "attn_layers": ["local"] * 4, "local_attn_chunk_length": 4}
        | {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "num_hidden_layers": 4}
        | {"max_position_embeddings": 64},
    ),
    "Perceiver": (
        "perceiver",
        {"vocab_size": 64, "d_model": 32, "d_latents": 32, "num_latents": 8, "num_blocks": 1}
        | {"num_self_attends_per_block": 4, "num_self_attention_heads": 4}
        | {"num_cross_attention_heads": 4, "max_position_embeddings": 64},
    ),
    # Decoders of text.
    "GPT-2": ("gpt2", _GPT2 | _ENDS),
    "GPT-J": ("gptj", _GPT2 | {"rotary_dim": 4} | _ENDS),
    "GPT-NeoX": ("gpt_neox", _TEXT | _ENDS),
    "GPT-Neo": (
        "gpt_neo",
        {"vocab_size": 64, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 4}
        | {"attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64}
        | _ENDS,
    ),
    "GPT-BigCode": ("gpt_bigcode", _GPT2 | _ENDS),
    "CTRL": ("ctrl", _GPT2 | {"dff": 64} | _ENDS),
    "BioGPT": ("biogpt", _TEXT | _ENDS),
    "XGLM": (
        "xglm",
        {"vocab_size": 64, "d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 64}
        | {"max_position_embeddings": 64, **_ENDS},
    ),
    "OPT": (
        "opt",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    ),
    "BLOOM": ("bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 4, "n_head": 4} | _ENDS),
    "MPT": (
        "mpt",
        {"vocab_size": 64, "d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 64},
    ),
    "Falcon": ("falcon", _TEXT | _ENDS),
    "Llama": ("llama", _HEADS),
    "Mistral": ("mistral", _HEADS | {"sliding_window": 4}),
    "Mixtral": ("mixtral", _EXPERTS | {"sliding_window": 4}),
    "Qwen2": ("qwen2", _DECODER | {"use_sliding_window": True, "sliding_window": 4}),
    "Qwen2-MoE": ("qwen2_moe", _EXPERTS | {"shared_expert_intermediate_size": 32}),
    "Qwen3": ("qwen3", _HEADS),
    "Qwen3-MoE": ("qwen3_moe", _EXPERTS),
    "Qwen3-Next": (
        "qwen3_next",
        _EXPERTS
        | {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
        | {"linear_value_head_dim": 8, "shared_expert_intermediate_size": 32},
    ),
    "Gemma": ("gemma", _HEADS),
    "Gemma 2": ("gemma2", _HEADS | {"sliding_window": 4}),
    "Gemma 3": ("gemma3_text", _HEADS | {"sliding_window": 4}),
    "Phi": ("phi", _DECODER),
    "Phi-3": ("phi3", _DECODER | {"sliding_window": 4}),
    "PhiMoE": ("phimoe", _EXPERTS | {"sliding_window": 4}),
    "Persimmon": ("persimmon", _TEXT | _ENDS),
    "Nemotron": ("nemotron", _DECODER),
    "Ministral": ("ministral", _HEADS | {"sliding_window": 4}),
    "Helium": ("helium", _HEADS),
    "ERNIE 4.5": ("ernie4_5", _HEADS),
    "OLMo": ("olmo", _DECODER),
    "OLMo 2": ("olmo2", _DECODER),
    "OLMo 3": ("olmo3", _DECODER | {"sliding_window": 4}),
    "OLMoE": ("olmoe", _EXPERTS),
    "Cohere": ("cohere", _DECODER),
    "Cohere 2": ("cohere2", _DECODER | {"sliding_window": 4}),
    "Granite": ("granite", _DECODER),
    "GraniteMoE": ("granitemoe", _EXPERTS),
    "StableLM": ("stablelm", _DECODER),
    "Starcoder2": ("starcoder2", _DECODER | {"sliding_window": 4}),
    "SmolLM3": ("smollm3", _DECODER),
    "GLM": ("glm", _HEADS),
    "GLM-4": ("glm4", _HEADS),
    "gpt-oss": ("gpt_oss", _EXPERTS | {"sliding_window": 4}),
    "DeepSeek-V2": ("deepseek_v2", _LATENT),
    "DeepSeek-V3": ("deepseek_v3", _LATENT),
    "Mamba": (
        "mamba",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 4} | _ENDS,
    ),
    "Mamba 2": ("mamba2", _MAMBA2),
    "Falcon-Mamba": (
        "falcon_mamba",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 4} | _ENDS,
    ),
    "RecurrentGemma": (
        "recurrent_gemma",
        _HEADS | {"attention_window_size": 4, "lru_width": 32},
    ),
    "xLSTM": (
        "xlstm",
        {"vocab_size": 64, "hidden_size": 32, "embedding_dim": 32, "num_heads": 4}
        | {"num_hidden_layers": 4, "num_blocks": 4}
        | _ENDS,
    ),
    "Jamba": (
        "jamba",
        _EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    ),
    "RWKV": (
        "rwkv",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "attention_hidden_size": 32}
        | _ENDS,
    ),
    # Encoders and decoders of text.
    "T5": ("t5", _T5),
    "mT5": ("mt5", _T5),
    "UMT5": ("umt5", _T5),
    "LongT5": ("longt5", _T5 | {"local_radius": 3}),
    "Switch Transformers": (
        "switch_transformers",
        _T5 | {"num_experts": 4, "expert_capacity": 4, "num_sparse_encoder_layers": 2},
    ),
    "BART": ("bart", _SEQ2SEQ),
    "mBART": ("mbart", _SEQ2SEQ),
    "Pegasus": ("pegasus", _SEQ2SEQ),
    "Marian": ("marian", _SEQ2SEQ),
    "BlenderBot": ("blenderbot", _SEQ2SEQ),
    "BlenderBot small": ("blenderbot-small", _SEQ2SEQ),
    "M2M100": ("m2m_100", _SEQ2SEQ),
    "PLBart": ("plbart", _SEQ2SEQ),
    "MVP": ("mvp", _SEQ2SEQ),
    "ProphetNet": (
        "prophetnet",
        {"vocab_size": 64, "hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | {"num_encoder_layers": 4, "num_decoder_layers": 2, "max_position_embeddings": 64}
        | {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4}
        | {"decoder_start_token_id": 2, **_ENDS},
    ),
    "BigBird-Pegasus": ("bigbird_pegasus", _SEQ2SEQ | {"block_size": 2, "num_random_blocks": 1}),
    "LED": ("led", _SEQ2SEQ | {"attention_window": 4, "max_encoder_position_embeddings": 64}),
    "FSMT": ("fsmt", _SEQ2SEQ | {"src_vocab_size": 64, "tgt_vocab_size": 64, "langs": ["a", "b"]}),
    "UDOP": ("udop", _T5 | {"image_size": 16, "patch_size": 4}),
    # Models of pictures and films.
    "ViT": ("vit", _PICTURES),
    "DeiT": ("deit", _PICTURES),
    "BEiT": ("beit", _PICTURES | {"use_relative_position_bias": True}),
    "DINOv2": ("dinov2", _PICTURES),
    "DINOv2 with registers": ("dinov2_with_registers", _PICTURES),
    "ViT MSN": ("vit_msn", _PICTURES),
    "Data2Vec, pictures": ("data2vec-vision", _PICTURES | {"use_relative_position_bias": True}),
    "SigLIP": ("siglip", {"vision_config": _PICTURES, "text_config": _TEXT}),
    "CLIP": ("clip", {"vision_config": _PICTURES, "text_config": _TEXT | _ENDS}),
    "Swin": ("swin", _STAGES),
    "Swin 2": ("swinv2", _STAGES),
    "SegFormer": ("segformer", _PYRAMID),
    "PVT 2": ("pvt_v2", _PYRAMID),
    "ConvNeXt": (
        "convnext",
        {"image_size": 64, "hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]},
    ),
    "ResNet": ("resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2]}),
    "VideoMAE": ("videomae", _PICTURES | {"num_frames": 4}),
    # Models of sound.
    "wav2vec 2.0, layer norm": ("wav2vec2", _NORMED),
    "wav2vec 2.0, group norm": ("wav2vec2", _SOUND),
    "wav2vec 2.0, weighted sum": ("wav2vec2", _NORMED | {"use_weighted_layer_sum": True}),
    "HuBERT, layer norm": ("hubert", _NORMED),
    "WavLM, layer norm": ("wavlm", _NORMED),
    "UniSpeech-SAT, layer norm": ("unispeech-sat", _NORMED),
    "Data2Vec, sound": ("data2vec-audio", _SOUND),
    "wav2vec 2.0 BERT": (
        "wav2vec2-bert",
        {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"intermediate_size": 64, "feature_projection_input_dim": 16},
    ),
    "Whisper": ("whisper", _SEQ2SEQ | _SPECTRUM),
    "AST": ("audio-spectrogram-transformer", _PICTURES | {"max_length": 32, "num_mel_bins": 32}),
}
"""The type of each family's configuration, and the settings that make it tiny."""


def try_family(name: str) -> Conformance:
    """Build it and look at it."""
    model_type, settings = FAMILIES[name]
    transformers.utils.logging.set_verbosity_error()
    config = transformers.AutoConfig.for_model(model_type, **settings)
    head = find_head(config, None)
    if head is None:
        raise ValueError(f"{name}: Transformers has no head for {model_type}")
    return check_opened(name, build_random(config, head))


def row(found: Conformance) -> str:
    """Of the table."""
    blocks = f"{found.blocks.count} {found.blocks.kind}" if found.blocks else "-"
    sizes = found.bytes_per_token
    stored = ", ".join(str(sizes[dtype]) for dtype in ("fp32", "bf16", "int8")) if sizes else "-"
    task = (found.task or "-").partition(" ")[0]
    why = "" if found.verdict == "cached" else found.reason.replace("|", "\\|")
    cells = (found.name, found.model, task, blocks, f"**{found.verdict}**", stored, why)
    return f"| {' | '.join(map(str, cells))} |"


def page(names: list[str]) -> str:
    """The whole page."""
    found = [try_family(name) for name in names]
    counts = {one.verdict: sum(one.verdict == other.verdict for other in found) for one in found}
    verdicts = ", ".join(
        f"{counts[kind]} are {kind}"
        for kind in ("cached", "freeze only", "unsupported")
        if kind in counts
    )
    intro = _INTRO.format(
        count=len(found), version=transformers.__version__, verdicts=verdicts.capitalize()
    )
    return intro + "".join(f"{row(one)}\n" for one in found)


def main() -> None:
    """Write the page, or print some rows."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if names := sys.argv[1:]:
        print("\n".join(row(try_family(name)) for name in names))
        return
    _PAGE.write_text(page(list(FAMILIES)), encoding="utf-8")
    print(f"written: {_PAGE}")


if __name__ == "__main__":
    main()
