"""The first generation, Qwen-Audio and Qwen-Audio-Chat. Its own remote code is never run."""

from lens_audio.checkpoints import fields
from lens_audio.checkpoints.families.qwen_audio_prompts import (
    AUDIO_START,
    AUDIO_TOKENS,
    CHAT_FORMAT,
    read_processor,
)
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, as_list


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes, from Qwen-Audio's own config.json.

    An answer of the chat model ends with its turn, as in the reference's `get_stop_words_ids`.

    Raises:
        ValueError: for a text-only Qwen, or a feature that no Qwen-Audio checkpoint uses.
    """
    audio = config.get("audio")
    if audio is None:
        raise ValueError("config.json has no 'audio': this is a text-only Qwen, not Qwen-Audio")
    d_model, n_heads = config["hidden_size"], config["num_attention_heads"]
    _check_heads(config, "hidden_size", "num_attention_heads")
    _check_heads(audio, "n_state", "n_head", prefix="audio.")
    _expect(config, rotary_pct=1.0, scale_attn_weights=True, kv_channels=d_model // n_heads)
    _expect(audio, avg_pool=True, add_audio_bos_eos_token=True, output_dim=d_model)
    has_bias = not config.get("no_bias", True)
    start = audio["audio_start_id"]
    eos = as_list(generation.get("eos_token_id"))
    if eos and generation.get("chat_format") == CHAT_FORMAT:
        eos += [eos[0] + 1, eos[0] + 2]  # <|im_start|>, <|im_end|>
    return AudioModelConfig(
        d_model=d_model,
        d_head=d_model // n_heads,
        n_heads=n_heads,
        n_layers=config["num_hidden_layers"],
        n_ctx=config["max_position_embeddings"],
        d_mlp=config["intermediate_size"] // 2,  # of the two factors together
        d_vocab=config["vocab_size"],
        attn_bias="qkvo" if has_bias else "qkv",
        mlp_bias=has_bias,
        eps=config["layer_norm_epsilon"],
        rotary_base=float(config.get("rotary_emb_base", 10000)),
        seq_length=config["seq_length"],
        use_dynamic_ntk=config.get("use_dynamic_ntk", False),
        use_logn_attn=config.get("use_logn_attn", False),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        audio_token_id=start - AUDIO_TOKENS.index(AUDIO_START),  # below 0 in a toy's vocabulary
        audio_edge_ids=(start, start + 1),
        eos_token_ids=eos,
        pad_token_id=generation.get("pad_token_id"),
        audio=AudioEncoderConfig(
            d_model=audio["n_state"],
            d_head=audio["n_state"] // audio["n_head"],
            n_heads=audio["n_head"],
            n_layers=audio["n_layer"],
            n_ctx=audio["n_ctx"],
            d_mlp=4 * audio["n_state"],
            n_mels=audio["n_mels"],
            cuts_mel=True,
        ),
    )


def _expect(config: Json, **expected: object) -> None:
    for name, value in expected.items():
        found = config.get(name, value)
        if found != value:
            raise ValueError(f"{name}={found!r} is not supported; Qwen-Audio has {value!r}")


def _check_heads(config: Json, width: str, heads: str, prefix: str = "") -> None:
    if config[width] % config[heads]:
        raise ValueError(
            f"{prefix}{heads} {config[heads]} does not divide {prefix}{width} {config[width]}"
        )


QWEN_AUDIO = Family(
    name="Qwen-Audio",
    architectures=("QWenLMHeadModel",),
    model_types=("qwen",),
    read_config=read_config,
    read_processor=read_processor,
    names={
        "transformer.wte.weight": "embed.W_E",
        "transformer.ln_f.weight": "ln_final.w",
        "lm_head.weight": "unembed.lm_head.weight",
        "transformer.h.*.ln_1.weight": "blocks.*.ln1.w",
        "transformer.h.*.ln_2.weight": "blocks.*.ln2.w",
        "transformer.h.*.attn.c_attn.*": (
            "blocks.*.attn.q_proj.*",
            "blocks.*.attn.k_proj.*",
            "blocks.*.attn.v_proj.*",
        ),
        "transformer.h.*.attn.c_proj.*": "blocks.*.attn.o_proj.*",
        "transformer.h.*.mlp.w1.*": "blocks.*.mlp.up_proj.*",
        "transformer.h.*.mlp.w2.*": "blocks.*.mlp.gate_proj.*",
        "transformer.h.*.mlp.c_proj.*": "blocks.*.mlp.down_proj.*",
        "transformer.audio.conv1.*": "audio_encoder.conv1.*",
        "transformer.audio.conv2.*": "audio_encoder.conv2.*",
        "transformer.audio.positional_embedding": "audio_encoder.W_pos",
        "transformer.audio.ln_post.weight": "audio_encoder.ln_final.w",
        "transformer.audio.ln_post.bias": "audio_encoder.ln_final.b",
        "transformer.audio.blocks.*.attn_ln.weight": "audio_encoder.blocks.*.ln1.w",
        "transformer.audio.blocks.*.attn_ln.bias": "audio_encoder.blocks.*.ln1.b",
        "transformer.audio.blocks.*.mlp_ln.weight": "audio_encoder.blocks.*.ln2.w",
        "transformer.audio.blocks.*.mlp_ln.bias": "audio_encoder.blocks.*.ln2.b",
        "transformer.audio.blocks.*.attn.query.*": "audio_encoder.blocks.*.attn.q_proj.*",
        "transformer.audio.blocks.*.attn.key.*": "audio_encoder.blocks.*.attn.k_proj.*",
        "transformer.audio.blocks.*.attn.value.*": "audio_encoder.blocks.*.attn.v_proj.*",
        "transformer.audio.blocks.*.attn.out.*": "audio_encoder.blocks.*.attn.o_proj.*",
        "transformer.audio.blocks.*.mlp.0.*": "audio_encoder.blocks.*.mlp.up_proj.*",
        "transformer.audio.blocks.*.mlp.2.*": "audio_encoder.blocks.*.mlp.down_proj.*",
        "transformer.audio.proj.*": "audio_projector.linear.*",
        "transformer.audio.audio_bos_eos_token.weight": "audio_edges",
        # Buffers that older copies of the remote code saved; the reference ignores them, too.
        "transformer.h.*.attn.masked_bias": (),
        "transformer.h.*.attn.rotary_emb.inv_freq": (),
    },
    fields={
        "hidden_size": fields.WIDTH,
        "intermediate_size": fields.whole(2, 2**21),
        "num_hidden_layers": fields.LAYERS,
        "num_attention_heads": fields.HEADS,
        "vocab_size": fields.VOCABULARY,
        "max_position_embeddings": fields.POSITIONS,
        "seq_length": fields.POSITIONS,
        "layer_norm_epsilon": fields.EPS,
        "rotary_emb_base": fields.ROTARY_BASE,
        "no_bias": fields.FLAG,
        "use_dynamic_ntk": fields.FLAG,
        "use_logn_attn": fields.FLAG,
        "tie_word_embeddings": fields.FLAG,
        "audio": fields.or_null(fields.OBJECT),
        "audio.n_state": fields.WIDTH,
        "audio.n_head": fields.HEADS,
        "audio.n_layer": fields.LAYERS,
        "audio.n_ctx": fields.POSITIONS,
        "audio.n_mels": fields.WIDTH,
        "audio.audio_start_id": fields.TOKEN,
    },
)
