"""Random small models of the first generation, in its own checkpoint format, and prompts for them."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from models import AUDIO_TOKEN, Layout, Sizes, make_prompt
from safetensors.torch import save_file
from torch import Tensor

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.testbed.sounds import CLASSES

START, END = 1, 2
SIZES = Sizes(kv_heads=4, d_model=32, d_head=8, n_ctx=256)
ONE_ROW = Layout()
SEQ_LENGTH = 16  # most prompts are longer, so that both scalings act
N_SPECIAL, FIRST_EDGE = 3522, 3520  # special tokens, and the place of <audio> among them
BYTES = [bytes([i]) for i in range(256)]
VOCABULARY = [*BYTES, b"th", b"the", b"in", b"ing", b" a", b"at"]
# The testbed's answers are single tokens of it, as the commands' first-token scores need.
ANSWERS = sorted({w[:n] for w in [*CLASSES, "yes"] for n in range(2, len(w) + 1)}, key=len)
TALKING_VOCABULARY = [*BYTES, *(prefix.encode() for prefix in ANSWERS)]


def config_json(sizes: Sizes = SIZES, seq_length: int = SEQ_LENGTH, **more: object) -> dict:
    """Qwen-Audio's config.json of these sizes."""
    config: dict = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": sizes.d_vocab,
        "hidden_size": sizes.d_model,
        "intermediate_size": 2 * sizes.d_mlp,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.n_heads,
        "kv_channels": sizes.d_head,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": sizes.n_ctx,
        "rotary_pct": 1.0,
        "rotary_emb_base": 10000,
        "seq_length": seq_length,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "tie_word_embeddings": False,
    }
    audio = {
        "n_mels": sizes.n_mels,
        "n_ctx": sizes.n_frames,
        "n_state": sizes.audio_d_model,
        "n_head": sizes.audio_heads,
        "n_layer": sizes.audio_layers,
        "output_dim": sizes.d_model,
        "avg_pool": True,
        "add_audio_bos_eos_token": True,
        "audio_start_id": START,
    }
    return config | {"audio": audio} | more


def stored_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of such a checkpoint."""
    d, mlp, vocab = config["hidden_size"], config["intermediate_size"] // 2, config["vocab_size"]
    audio = config["audio"]
    a, n_mels = audio["n_state"], audio["n_mels"]
    shapes = {"transformer.wte": (vocab, d), "transformer.ln_f": (d,), "lm_head": (vocab, d)}
    for l in range(config["num_hidden_layers"]):
        block = {"ln_1": (d,), "ln_2": (d,), "attn.c_attn": (3 * d, d), "attn.c_proj": (d, d)}
        block |= {"mlp.w1": (mlp, d), "mlp.w2": (mlp, d), "mlp.c_proj": (d, mlp)}
        shapes |= {f"transformer.h.{l}.{name}": shape for name, shape in block.items()}
    front = {"conv1": (a, n_mels, 3), "conv2": (a, a, 3), "ln_post": (a,), "proj": (d, a)}
    for l in range(audio["n_layer"]):
        linear = {"attn.query": (a, a), "attn.key": (a, a), "attn.value": (a, a)}
        linear |= {"attn.out": (a, a), "mlp.0": (4 * a, a), "mlp.2": (a, 4 * a)}
        linear |= {"attn_ln": (a,), "mlp_ln": (a,)}
        front |= {f"blocks.{l}.{name}": shape for name, shape in linear.items()}
    named = {f"{name}.weight": shape for name, shape in shapes.items()}
    named |= {f"{n[:-7]}.bias": s[:1] for n, s in named.items() if n.endswith("c_attn.weight")}
    for name, shape in front.items():
        named[f"transformer.audio.{name}.weight"] = shape
        if not name.endswith("attn.key"):
            named[f"transformer.audio.{name}.bias"] = shape[:1]
    named["transformer.audio.positional_embedding"] = (audio["n_ctx"], a)
    named["transformer.audio.audio_bos_eos_token.weight"] = (2, d)
    return named


def stored_tensors(config: dict, seed: int = 0) -> dict[str, Tensor]:
    """Random weights, every one of which matters."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in stored_shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            noise = 0.2 * noise + (1 if name.endswith("weight") else 0)
        elif any(part in name for part in ("wte", "positional", "bos_eos")):
            noise = 0.5 * noise
        else:
            noise = noise / noise[0].numel() ** 0.5
        tensors[name] = noise
    return tensors


def write_checkpoint(folder: Path, config: dict, seed: int = 0) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored_tensors(config, seed), folder / "model.safetensors")
    return folder


def write_talking_checkpoint(folder: Path, chat_format: str = "chatml", seed: int = 0) -> Path:
    """A checkpoint with a small vocabulary of its own and all the special tokens; clips to 4 s."""
    n = len(TALKING_VOCABULARY)
    front = {"n_mels": 80, "n_frames": 200}
    heads = {"n_layers": 4, "n_heads": 8, "d_head": 4}  # as many as the steering command needs
    sizes = replace(SIZES, d_vocab=n + N_SPECIAL, n_ctx=2048, **front, **heads)
    config = config_json(sizes, seq_length=64)
    config["audio"]["audio_start_id"] = n + FIRST_EDGE
    lines = [
        base64.b64encode(token) + f" {i}\n".encode() for i, token in enumerate(TALKING_VOCABULARY)
    ]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    generation = {"chat_format": chat_format, "eos_token_id": n, "pad_token_id": n}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return write_checkpoint(folder, config, seed)


def load(folder: Path) -> HookedAudioTransformer:
    return HookedAudioTransformer.from_pretrained(folder, device="cpu", verbose=False)


def first_generation(
    sizes: Sizes = SIZES, seed: int = 0, seq_length: int = SEQ_LENGTH
) -> HookedAudioTransformer:
    """A model of these sizes; keys are never grouped."""
    with TemporaryDirectory() as folder:
        return load(write_checkpoint(Path(folder), config_json(sizes, seq_length), seed))


def random_sizes(seed: int) -> Sizes:
    """Sizes that the first generation can have."""
    sizes = Sizes.random(seed)
    d_head = max(4, sizes.d_head)
    return replace(
        sizes, kv_heads=sizes.n_heads, d_head=d_head, d_model=sizes.n_heads * d_head, tied=False
    )


def edged_prompt(sizes: Sizes = SIZES, layout: Layout = ONE_ROW, seed: int = 0) -> AudioPrompt:
    """`make_prompt`, the tokens beside each clip made those that open and close one."""
    prompt = make_prompt(sizes, layout, seed)
    tokens, audio = prompt.tokens.clone(), prompt.audio_mask
    tokens[:, :-1][audio[:, 1:] & ~audio[:, :-1]] = START
    tokens[:, 1:][audio[:, :-1] & ~audio[:, 1:]] = END
    return AudioPrompt.from_tensors(
        tokens,
        prompt.mel,
        prompt.mel_lengths,
        attention_mask=prompt.attention_mask,
        audio_token_id=AUDIO_TOKEN,
    )
