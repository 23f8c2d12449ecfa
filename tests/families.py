"""Tiny models, one per decoder family, built from configs: no downloads, the same weights every time.

``build_model("llama", num_layers=6)`` gives a model ready for tests: 64 tokens, ``pad_token_id`` 0, no end token, eval
mode. Families are listed with what makes them tiny beyond :data:`tiny.SIZES`, and with layers of every kind they have.
"""

from __future__ import annotations

from typing import Any

from tiny import DROP, Family, Path, PerLayer, at, cycle
from transformers import PreTrainedModel

__all__ = ["FAMILIES", "Family", "Path", "build_model"]

SLIDING, FULL, LINEAR, CHUNKED = "sliding_attention", "full_attention", "linear_attention", "chunked_attention"
WINDOWS = {"layer_types": cycle(SLIDING, FULL), "sliding_window": 4}
HYBRID = {"layer_types": cycle(LINEAR, FULL)}
SPARSE = {"mlp_layer_types": cycle("dense", "sparse")}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
SHARED = {"shared_expert_intermediate_size": 16}
GROUPS = {"n_group": 2, "topk_group": 1}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
INDEXER = {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 2}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 4, "mamba_n_groups": 1}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
ATTENTION_SIZES = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8}
GPT = {"n_embd": 32, "n_head": 4, "n_positions": 128}
NO_NULL_TOKENS = {"bos_token_id": 1, "eos_token_id": 63}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SEQ2SEQ = {
    "is_encoder_decoder": True,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 6, "num_heads": 4, "decoder_start_token_id": 0}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
}
M_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}


def family(name: str, *settings: dict[str, Any], **keywords: Any) -> Family:
    """A family from parts of its settings; keywords are further settings or attributes of :class:`tiny.Family`."""
    own = {key: keywords.pop(key) for key in list(keywords) if key in Family.__dataclass_fields__}
    merged: dict[str, Any] = {}
    for part in settings:
        merged |= part
    return Family(name, merged | keywords, **own)


def bert_like(name: str, **keywords: Any) -> Family:
    """An encoder by birth that also runs as a decoder."""
    return family(name, is_decoder=True, **keywords)


def seq2seq(name: str, model_class: str, **keywords: Any) -> Family:
    """An encoder-decoder model; programs choose from its decoder's layers."""
    return family(name, SEQ2SEQ, model_class=model_class, depth_keys=("decoder_layers",), **keywords)


def t5_like(name: str, model_class: str, **keywords: Any) -> Family:
    """T5 and its relatives, of which transformers sizes the decoder's cache by the encoder's depth."""
    own = {"by_position": True, "notes": "only the first layer of the base has a position bias"} | keywords
    return family(
        name, T5, model_class=model_class, depth_keys=("num_decoder_layers",), cache_depth_key="num_layers", **own
    )


PLAIN = [
    family("llama", tier="fast"),
    family("mistral", tier="fast", sliding_window=4, notes="sliding window"),
    family("qwen2", WINDOWS, tier="fast", use_sliding_window=True, notes="sliding and full attention"),
    family("qwen3", tier="fast"),
    family(
        "gemma2", WINDOWS, tier="fast", tie_word_embeddings=True, notes="sliding and full attention, tied embeddings"
    ),
    family("gemma3_text", tier="fast", layer_types=cycle(SLIDING, SLIDING, FULL), sliding_window=4),
    family("phi3", tier="fast"),
    family("gpt2", tier="fast", tie_word_embeddings=True, notes="tied embeddings"),
    family("gpt2_scaled", config_class="GPT2Config", scale_attn_by_inverse_layer_idx=True, by_position=True),
    family("gpt_neox", tier="fast"),
    family("opt", tier="fast", word_embed_proj_dim=32, ffn_dim=48),
    family("apertus"),
    family("arcee"),
    family("biogpt"),
    family("bitnet"),
    family("bloom", n_head=4),
    family("codegen", GPT, rotary_dim=4),
    family("cohere"),
    family("cohere2", WINDOWS),
    family("cohere_compass_text", WINDOWS, rope_parameters={SLIDING: ROPE, FULL: ROPE}),
    family("cpmant", dim_head=8, dim_ff=48),
    family("ctrl", GPT, dff=48),
    family("cwm", WINDOWS, NO_NULL_TOKENS),
    family("diffllama", by_position=True, notes="its lambda depends on the layer's place in the base"),
    family("doge"),
    family("ernie4_5"),
    family("exaone4", WINDOWS),
    family("falcon", head_dim=DROP),
    family("falcon_alibi", config_class="FalconConfig", head_dim=DROP, alibi=True),
    family("gemma"),
    family(
        "gemma4_text",
        WINDOWS,
        hidden_size_per_layer_input=0,
        corrected=("layer_types",),
        notes="without inputs for each layer; its config makes the last layer attend to everything",
    ),
    family("glm"),
    family("glm4"),
    family("gpt_bigcode"),
    family(
        "gpt_neo",
        attention_types=PerLayer(lambda path: [[[("global", "local")[index % 2]], 1] for index in path]),
        window_size=4,
    ),
    family("gpt_neox_japanese", by_position=True, notes="only the last layer of the base has an output bias"),
    family("gptj", GPT, rotary_dim=4),
    family("granite"),
    family("granite_swa", WINDOWS, layer_rope_theta=cycle(10000.0, 50000.0)),
    family("helium"),
    family("hunyuan_v1_dense"),
    family("hyperclovax"),
    family("internlm3"),
    family("iquestcoder"),
    family("jais2"),
    family("minicpm3", LATENT, by_position=True, notes="its residual scale is that of the base's depth"),
    family("ministral", WINDOWS),
    family("ministral3"),
    family(
        "modernbert-decoder",
        WINDOWS,
        NO_NULL_TOKENS,
        local_attention=8,
        cls_token_id=1,
        sep_token_id=2,
        by_position=True,
        notes="only the first layer of the base has no input norm",
    ),
    family("moshi", ffn_dim=48, audio_vocab_size=32),
    family("mpt", d_model=32, n_heads=4, max_seq_len=128),
    family("nanochat"),
    family("nemotron"),
    family("olmo"),
    family("olmo2"),
    family("olmo3", WINDOWS),
    family("openai-gpt", GPT),
    family("persimmon"),
    family("phi"),
    family("seed_oss"),
    family("smollm3", WINDOWS, no_rope_layers=cycle(1, 0), use_sliding_window=True),
    family("stablelm"),
    family("starcoder2", sliding_window=4),
    family("trocr", d_model=32, decoder_attention_heads=4, decoder_ffn_dim=48, depth_keys=("decoder_layers",)),
    family("vaultgemma", WINDOWS),
    family("xglm", d_model=32, ffn_dim=48, attention_heads=4),
    family("youtu", LATENT),
    bert_like("bert"),
    bert_like("bert-generation"),
    bert_like("big_bird"),
    bert_like("camembert"),
    bert_like("data2vec-text"),
    bert_like("electra"),
    bert_like("ernie"),
    bert_like("megatron-bert"),
    bert_like("rembert"),
    bert_like("roberta"),
    bert_like("roberta-prelayernorm"),
    bert_like("roc_bert", pronunciation_vocab_size=64, shape_vocab_size=64),
    bert_like("roformer"),
    bert_like("xlm-roberta"),
    bert_like("xlm-roberta-xl"),
    bert_like("xmod", default_language="en_XX", languages=["en_XX"]),
]

MIXTURES = [
    family("mixtral", LOCAL_MOE, tier="fast"),
    family("qwen2_moe", MOE, SHARED, tier="fast", mlp_only_layers=at(2)),
    family("qwen3_moe", MOE, tier="fast", mlp_only_layers=at(2)),
    family("afmoe", MOE, WINDOWS, num_dense_layers=2, by_position=True),
    family("aria_text", moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
    family("axk1", ROUTED, GROUPS, LATENT, SPARSE),
    family("axk2", ROUTED, LATENT, INDEXER, SPARSE),
    family("beam", MOE, GROUPS, WINDOWS, SPARSE, by_position=True, notes="its residual scale depends on the layer"),
    family("cohere2_moe", MOE, WINDOWS, SPARSE),
    family(
        "dbrx",
        d_model=32,
        n_heads=4,
        max_seq_len=128,
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    ),
    family("deepseek_v2", ROUTED, LATENT, first_k_dense_replace=2, by_position=True),
    family("deepseek_v3", ROUTED, GROUPS, LATENT, first_k_dense_replace=2, by_position=True),
    family("deepseek_v32", ROUTED, GROUPS, LATENT, INDEXER, SPARSE),
    family(
        "deepseek_v4",
        ROUTED,
        INDEXER,
        q_lora_rank=16,
        o_groups=2,
        o_lora_rank=8,
        hc_mult=2,
        sliding_window=4,
        layer_types=cycle("heavily_compressed_attention", "compressed_sparse_attention", SLIDING),
        mlp_layer_types=cycle("hash_moe", "moe"),
    ),
    family("dots1", ROUTED, WINDOWS, first_k_dense_replace=2, by_position=True),
    family(
        "dots3_note_text",
        ROUTED,
        LATENT,
        INDEXER,
        SPARSE,
        layer_types=cycle(SLIDING, "indexed_attention"),
        sliding_window=4,
        shared_experts_intermediate_size=16,
        head_dim=16,
        **{f"swa_{name}": size for name, size in (LATENT | {"num_attention_heads": 4, "head_dim": 16}).items()},
    ),
    family(
        "ernie4_5_moe",
        MOE,
        moe_num_experts=4,
        moe_k=2,
        moe_layer_start_index=2,
        moe_layer_end_index=4,
        by_position=True,
    ),
    family("exaone_moe", MOE, WINDOWS, SPARSE),
    family("flex_olmo", MOE),
    family("flint", MOE, SHARED, WINDOWS, mlp_only_layers=at(2)),
    family("glm4_moe", ROUTED, first_k_dense_replace=2, by_position=True),
    family("glm4_moe_lite", ROUTED, LATENT, SPARSE),
    family("glm_moe_dsa", ROUTED, LATENT, INDEXER, SPARSE, indexer_types=cycle("full", "shared")),
    family("gpt_oss", LOCAL_MOE, WINDOWS),
    family("granitemoe", LOCAL_MOE),
    family("granitemoe_swa", LOCAL_MOE, WINDOWS, layer_rope_theta=cycle(10000.0, 50000.0)),
    family("granitemoeshared", LOCAL_MOE, shared_intermediate_size=16),
    family("hunyuan_v1_moe", num_experts=4, moe_topk=cycle(1, 2)),
    family("hy_v3", MOE, SPARSE),
    family("hy_v4", ROUTED, LATENT, INDEXER, SPARSE, hc_mult=2, indexer_types=cycle("full", "shared")),
    family(
        "inkling_text",
        ROUTED,
        SPARSE,
        ATTENTION_SIZES,
        layer_types=cycle("hybrid_sliding", "hybrid"),
        sliding_window_size=4,
    ),
    family(
        "inkling2_text",
        ROUTED,
        ATTENTION_SIZES,
        layer_types=cycle("hybrid_sliding", "hybrid"),
        sliding_window_size=4,
        unpadded_vocab_size=64,
        n_layers_per_attn_res_block=2,
        by_position=True,
        notes="layers attend to the blocks before them",
    ),
    family("jetmoe", LOCAL_MOE, kv_channels=8),
    family("kolibri1", MOE, SHARED, WINDOWS),
    family("laguna", MOE, SHARED, WINDOWS, SPARSE, num_attention_heads_per_layer=cycle(4, 2)),
    family(
        "llama4_text",
        LOCAL_MOE,
        num_experts_per_tok=1,
        intermediate_size_mlp=48,
        moe_layers=at(1, 3),
        no_rope_layers=cycle(1, 1, 0),
        layer_types=cycle(CHUNKED, CHUNKED, FULL),
        attention_chunk_size=4,
    ),
    family("mellum", MOE, WINDOWS, SPARSE),
    family("mimo_v2_flash", ROUTED, WINDOWS, SPARSE, v_head_dim=8),
    family("minimax_m2", LOCAL_MOE),
    family(
        "minimax_m3_vl_text",
        LOCAL_MOE,
        SPARSE,
        dense_intermediate_size=48,
        shared_intermediate_size=16,
        rotary_dim=4,
        index_n_heads=2,
        index_head_dim=8,
        index_block_size=4,
        index_topk_blocks=2,
    ),
    family("olmoe", MOE),
    family("phimoe", LOCAL_MOE),
    family("solar_open", ROUTED),
    family("zaya", MOE, num_experts_per_tok=1, router_hidden_size=16, by_position=True),
]

HYBRIDS = [
    family("bailing_hybrid", ROUTED, GROUPS, LATENT, HYBRID, SPARSE, num_local_experts=4),
    family("bamba", MAMBA2, attn_layer_indices=at(1, 4)),
    family("falcon_h1", MAMBA2, mamba_d_ssm=64),
    family("falcon_mamba", state_size=4),
    family("granitemoehybrid", LOCAL_MOE, MAMBA2, shared_intermediate_size=16, layer_types=cycle("mamba", "attention")),
    family(
        "jamba",
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=0,
        mamba_d_state=4,
        derived={
            "layers_block_type": cycle("mamba", "attention"),
            "layer_types": cycle(LINEAR, FULL),
            "layers_num_experts": cycle(4, 1),
        },
    ),
    family("kimi_linear", ROUTED, LATENT, HYBRID, SPARSE, num_local_experts=4, linear_head_dim=8, linear_num_heads=4),
    family("lfm2", layer_types=cycle("conv", FULL)),
    family("lfm2_moe", MOE, layer_types=cycle("conv", FULL), num_dense_layers=2, by_position=True),
    family("lfm3", layer_types=cycle("conv", FULL)),
    family("mamba", state_size=4),
    family("mamba2", num_heads=4, head_dim=16, state_size=8, n_groups=1, chunk_size=4),
    family("minimax", LOCAL_MOE, HYBRID, block_size=4, by_position=True),
    family(
        "nemotron_h",
        layers_block_type=cycle("mamba", "attention", "mlp"),
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=1,
        chunk_size=4,
        depth_keys=(),
    ),
    family("olmo_hybrid", DELTA, HYBRID),
    family("qwen3_5_text", DELTA, HYBRID),
    family("qwen3_5_moe_text", DELTA, HYBRID, MOE, SHARED),
    family("qwen3_next", DELTA, HYBRID, MOE, SHARED),
    family(
        "qwen4_exp_text",
        DELTA,
        MOE,
        SHARED,
        layer_types=cycle(LINEAR, "indexed_attention"),
        hc_count=2,
        hc_lowrank=8,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=4,
        indexer_compress_ratio=1,
    ),
    family("xlstm", num_heads=2, hidden_size=128),
    family("zamba", layers_block_type=cycle("mamba", "hybrid")),
]

MULTIMODAL = [
    family(
        "gemma3",
        text={"layer_types": cycle(SLIDING, FULL), "sliding_window": 4},
        vision_config=VISION,
        model_class="Gemma3ForConditionalGeneration",
    ),
    family("llava", text={}, vision_config=VISION, model_class="LlavaForConditionalGeneration"),
    family("mistral3", text={}, vision_config=VISION, model_class="Mistral3ForConditionalGeneration"),
    family(
        "qwen2_vl",
        text=M_ROPE,
        vision_config=QWEN_VISION | {"embed_dim": 32, "mlp_ratio": 2},
        model_class="Qwen2VLForConditionalGeneration",
    ),
    family("qwen2_5_vl", text=M_ROPE, vision_config=QWEN_VISION, model_class="Qwen2_5_VLForConditionalGeneration"),
    family(
        "qwen3_vl",
        text=M_ROPE,
        vision_config=QWEN_VISION,
        model_class="Qwen3VLForConditionalGeneration",
        notes="text; images are refused, for their features go to layers by position",
    ),
    family("qwen3_5", text=DELTA | HYBRID, vision_config=QWEN_VISION, model_class="Qwen3_5ForConditionalGeneration"),
]

ENCODER_DECODERS = [
    seq2seq("bart", "BartForConditionalGeneration"),
    family(
        "bart_decoder",
        SEQ2SEQ,
        is_encoder_decoder=False,
        encoder_layers=PerLayer(len),
        config_class="BartConfig",
        model_class="BartForCausalLM",
        depth_keys=("decoder_layers",),
        notes="a decoder cut out of an encoder-decoder model",
    ),
    seq2seq("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration"),
    seq2seq("blenderbot", "BlenderbotForConditionalGeneration"),
    seq2seq("blenderbot-small", "BlenderbotSmallForConditionalGeneration"),
    seq2seq("fsmt", "FSMTForConditionalGeneration", src_vocab_size=64, tgt_vocab_size=64, langs=["en", "de"]),
    seq2seq("m2m_100", "M2M100ForConditionalGeneration"),
    seq2seq("marian", "MarianMTModel"),
    seq2seq("mbart", "MBartForConditionalGeneration"),
    seq2seq("pegasus", "PegasusForConditionalGeneration"),
    seq2seq("plbart", "PLBartForConditionalGeneration"),
    t5_like("t5", "T5ForConditionalGeneration"),
    t5_like("mt5", "MT5ForConditionalGeneration"),
    t5_like("longt5", "LongT5ForConditionalGeneration"),
    t5_like("umt5", "UMT5ForConditionalGeneration", by_position=False, notes="every layer has its own position bias"),
]

REFUSED = [
    family("blt", refused="0 of its module lists"),
    family(
        "gemma3n_text",
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=64,
        num_kv_shared_layers=0,
        laurel_rank=4,
        altup_num_inputs=2,
        refused="hidden_size_per_layer_input",
    ),
    family(
        "gemma4_ple",
        config_class="Gemma4TextConfig",
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=64,
        refused="hidden_size_per_layer_input",
    ),
    family(
        "gemma4_shared",
        WINDOWS,
        config_class="Gemma4TextConfig",
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=2,
        refused="num_kv_shared_layers",
    ),
    family("hrm_text", refused="0 of its module lists"),
    family("idefics", vision_config=VISION, model_class="IdeficsForVisionText2Text", refused="of its module lists"),
    family(
        "imagegpt", GPT, model_class="ImageGPTForCausalImageModeling", refused="ImageGPTAttention uses its own position"
    ),
    family(
        "longcat_flash",
        LATENT,
        n_routed_experts=4,
        zero_expert_num=2,
        moe_topk=2,
        ffn_hidden_size=48,
        expert_ffn_hidden_size=16,
        depth_keys=("num_layers",),
        refused="0 of its module lists",
    ),
    family(
        "mllama",
        text={"cross_attention_layers": [1, 4], "rope_parameters": ROPE, **NO_NULL_TOKENS},
        vision_config=VISION,
        model_class="MllamaForConditionalGeneration",
        refused="cross_attention_layers",
    ),
    seq2seq("mvp", "MvpForConditionalGeneration", refused="self_attn_prompt[idx]"),
    family(
        "recurrent_gemma",
        lru_width=32,
        attention_window_size=4,
        block_types=cycle("recurrent", "attention"),
        refused="keeps `conv1d_state` on itself",
    ),
    family(
        "reformer",
        is_decoder=True,
        axial_pos_embds=False,
        attn_layers=["local"] * 6,
        refused="does not simply loop over its layers",
    ),
    family("rwkv", attention_hidden_size=32, refused="uses the position of a layer in `idx + 1`"),
    family("xlm", refused="4 of its module lists"),
    family(
        "xlnet", d_head=8, d_inner=48, max_position_embeddings=DROP, refused="uses the position of a layer in `mems[i]`"
    ),
    family(
        "zamba2",
        layers_block_type=cycle("mamba", "hybrid"),
        n_mamba_heads=4,
        mamba_d_state=8,
        chunk_size=4,
        refused="self.layer_dic[layer_idx]",
    ),
]

FAMILIES: dict[str, Family] = {
    f.name: f for f in (*PLAIN, *MIXTURES, *HYBRIDS, *MULTIMODAL, *ENCODER_DECODERS, *REFUSED)
}


def build_model(name: str, num_layers: int = 6) -> PreTrainedModel:
    """A tiny base of a family in eval mode: see :meth:`tiny.Family.build`."""
    return FAMILIES[name].build(num_layers)
