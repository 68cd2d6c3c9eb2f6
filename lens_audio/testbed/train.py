"""Train the embedded checkpoint: `python -m lens_audio.testbed.train`.

Two phases share one optimiser and one schedule. First the audio encoder and projector learn to
write, at each 40 ms token of an event, a vector close to the embedding of the word for it, as
real audio-language models start from an encoder aligned with text. Then the whole model learns
to answer; in its last steps plain captions are trusted less (`data.caption_trust`).

A run is a pure function of its settings: the batch of step t is drawn from (seed, t), and no
layer uses dropout. The state folder holds weights, optimiser and step, so a stopped run that
is started again with `--resume` ends in the same weights.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen2_audio.configuration_qwen2_audio import Qwen2AudioEncoderConfig

from lens_audio import files
from lens_audio.config import AudioTiming
from lens_audio.fingerprint import differences, versions
from lens_audio.testbed import checkpoint_dir
from lens_audio.testbed.data import Batch, Pool, make_batch, make_pool
from lens_audio.testbed.processor import AUDIO, END_OF_TEXT, TURN_END, build_processor
from lens_audio.testbed.sounds import CLASSES

DEFAULT_STATE = Path.home() / ".cache" / "lens_audio" / "testbed_training"
TIMING = AudioTiming()


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the weights."""

    steps: int = 2650
    tagging_steps: int = 300  # the first of `steps`, spent on the encoder alone
    settling_steps: int = 250  # the last of `steps`, with less trust in plain captions
    batch_size: int = 12  # recordings
    questions: int = 4  # on each recording
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clips: int = 10_240  # synthesised once, drawn with replacement
    seed: int = 0
    precision: str = "bfloat16"  # of the matrix products; weights stay float32


def build_model(processor: Qwen2AudioProcessor, seed: int) -> Qwen2AudioForConditionalGeneration:
    """A Qwen2-Audio of 1.2 M parameters with fresh weights."""
    tokenizer, features = processor.tokenizer, processor.feature_extractor
    ids = {
        token: tokenizer.convert_tokens_to_ids(token) for token in (AUDIO, END_OF_TEXT, TURN_END)
    }
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=features.feature_size, encoder_layers=2, encoder_attention_heads=6,
        encoder_ffn_dim=384, d_model=96, max_source_positions=features.nb_max_frames // 2,
        initializer_range=0.06,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
        initializer_range=0.06, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=ids[END_OF_TEXT], eos_token_id=ids[TURN_END], pad_token_id=ids[END_OF_TEXT],
    )  # fmt: skip
    config = Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=ids[AUDIO])
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    positions = model.model.audio_tower.embed_positions.weight
    # Whisper's sinusoids, scaled to the size of the freshly initialised features.
    positions.data.copy_(0.3 * sinusoids(*positions.shape))
    model.generation_config = GenerationConfig(
        eos_token_id=[ids[TURN_END], ids[END_OF_TEXT]], pad_token_id=ids[END_OF_TEXT],
        do_sample=False, max_new_tokens=8,
    )  # fmt: skip
    return model


def sinusoids(n_positions: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Whisper's fixed position embeddings: sines, then cosines, of geometric frequencies."""
    half = d_model // 2
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = torch.arange(n_positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def tagging_loss(
    model: Qwen2AudioForConditionalGeneration,
    nothing: Float[Tensor, "1 d_model"],
    words: Int[Tensor, "class 2"],
    batch: Batch,
) -> Float[Tensor, ""]:
    """Cross-entropy of the class heard in each audio token, by its word's embedding.

    `words` holds each class word's ids, with and without a leading space. `nothing` is a
    vector of its own, for the tokens without an event, and is thrown away after training.
    """
    tower = model.model.audio_tower
    audio = model.model.multi_modal_projector(tower(batch.mel).last_hidden_state)
    middle = (torch.arange(audio.shape[1]) + 0.5) * TIMING.seconds_per_token()
    inside = (middle > batch.event[:, :1]) & (middle < batch.event[:, 1:])
    classes = torch.where(batch.clip_class < 0, len(CLASSES), batch.clip_class)[:, None]
    target = torch.where(inside, classes, len(CLASSES))
    real = batch.mel_mask[:, :: TIMING.mel_frames_per_token][:, : audio.shape[1]].bool()
    embedding = model.get_input_embeddings()(words).sum(1)
    logits = audio[real] @ torch.cat([embedding, nothing]).T
    # An event fills about a fifth of its clip; the weight evens it with "nothing".
    weight = torch.ones(len(CLASSES) + 1)
    weight[-1] = 0.2
    return nn.functional.cross_entropy(logits.float(), target[real], weight=weight)


def answer_loss(model: Qwen2AudioForConditionalGeneration, batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy of the answer and the token that ends the turn."""
    hidden = model.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        input_features=batch.mel if len(batch.mel) else None,
        feature_attention_mask=batch.mel_mask,
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[batch.answer_mask]).float()
    targets = batch.input_ids.roll(-1, dims=1)[batch.answer_mask]
    return nn.functional.cross_entropy(logits, targets)


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warm-up at the start of both main phases and a cosine to a twentieth over them;
    then, while settling, from a fifth of the peak linearly to zero."""
    main_steps = settings.steps - settings.settling_steps
    if step >= main_steps:
        return 0.2 * settings.learning_rate * (settings.steps - step) / settings.settling_steps
    phase_start = settings.tagging_steps if step >= settings.tagging_steps else 0
    warm = min(1.0, (step - phase_start + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / main_steps))
    return settings.learning_rate * warm * (0.05 + 0.95 * cosine)


def _attend_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention outside autocast: the CPU's bfloat16 attention is slow to differentiate."""
    with torch.autocast("cpu", enabled=False):
        q, k, v = query.float(), key.float(), value.float()
        return sdpa_attention_forward(module, q, k, v, mask, **kwargs)


AttentionInterface.register("testbed_float32", _attend_in_float32)
AttentionMaskInterface.register("testbed_float32", sdpa_mask)


def make_optimizer(trained: Sequence[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW, which shrinks matrices alone."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=weight_decay)


class Trainer:
    """Model, optimiser and step, with saving and resuming."""

    def __init__(
        self, settings: TrainingSettings, workers: int = 0, pool: Pool | None = None
    ) -> None:
        if settings.steps < settings.tagging_steps + settings.settling_steps:
            raise ValueError(
                f"steps={settings.steps} is less than tagging_steps={settings.tagging_steps} and "
                f"settling_steps={settings.settling_steps} together; raise --steps or lower "
                "--tagging-steps or --settling-steps"
            )
        self.settings = settings
        self.processor = build_processor()
        self.model = build_model(self.processor, settings.seed)
        self.model.set_attn_implementation("testbed_float32")
        self.nothing = nn.Parameter(torch.zeros(1, self.model.lm_head.in_features))
        encode = self.processor.tokenizer.encode
        self.words = torch.tensor([[*encode(word), *encode(f" {word}")] for word in CLASSES])
        extractor = self.processor.feature_extractor
        self.pool = pool or make_pool(extractor, settings.seed, settings.clips, workers)
        trained = [p for p in self.model.parameters() if p.requires_grad] + [self.nothing]
        self.optimizer = make_optimizer(trained, settings.weight_decay)
        self.step = 0

    def train_step(self) -> float:
        """One update; returns the loss in nats."""
        s = self.settings
        tagging = self.step < s.tagging_steps
        rows, questions = (4 * s.batch_size, 1) if tagging else (s.batch_size, s.questions)
        settling = self.step >= s.steps - s.settling_steps
        batch = make_batch(self.pool, self.processor, s.seed, self.step, rows, questions, settling)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(s, self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=s.precision == "bfloat16"):
            if tagging:
                loss = tagging_loss(self.model, self.nothing, self.words, batch)
            else:
                loss = answer_loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def save_checkpoint(self, folder: Path) -> None:
        """Weights, config, generation config and processor, as transformers saves them."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """What `--resume` needs. The batches need nothing: they are drawn from (seed, step)."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "versions": versions(),
            "settings": asdict(self.settings),
            "step": self.step,
            "model": self.model.state_dict(),
            "nothing": self.nothing.data,
            "optimizer": self.optimizer.state_dict(),
        }
        with files.replacing(folder / "state.pt") as unfinished:
            torch.save(state, unfinished)

    def load_state(self, folder: Path) -> None:
        """Go on where `save_state` left off.

        Raises:
            ValueError: for no saved state, or one of other settings or versions.
        """
        path = folder / "state.pt"
        if not path.exists():
            raise ValueError(f"nothing to resume: {path} does not exist; start without --resume")
        state = torch.load(path, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"{path} was written with settings {state['settings']}, this run has "
                f"{asdict(self.settings)}; repeat those settings or start without --resume"
            )
        changed = differences({"versions": state.get("versions")}, {"versions": versions()})
        if changed:
            raise ValueError(
                f"{path}: {'; '.join(changed)}; go on with those, or start without --resume"
            )
        self.model.load_state_dict(state["model"])
        self.nothing.data.copy_(state["nothing"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train(trainer: Trainer, out: Path, state: Path, save_every: int = 500) -> None:
    """Run the remaining steps under a progress bar, saving as it goes."""
    steps = trainer.settings.steps
    mean_loss = float("nan")
    with tqdm(total=steps, initial=trainer.step, desc="training", unit="step") as bar:
        while trainer.step < steps:
            loss = trainer.train_step()
            mean_loss = loss if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss
            tagging = trainer.step <= trainer.settings.tagging_steps
            bar.set_postfix(loss=f"{mean_loss:.3f}", phase="tagging" if tagging else "answering")
            bar.update()
            if trainer.step % save_every == 0 or trainer.step == steps:
                trainer.save_state(state)
                trainer.save_checkpoint(out)


def main() -> None:
    """Train as the command line says, or go on with what was begun."""
    defaults = TrainingSettings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=checkpoint_dir(), help="checkpoint folder")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="folder for --resume")
    parser.add_argument("--resume", action="store_true", help="go on from the state folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that synthesise clips")
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = TrainingSettings(**{name: getattr(options, name) for name in asdict(defaults)})
    print(f"synthesising {settings.clips} training clips")
    trainer = Trainer(settings, workers=options.workers)
    if options.resume:
        trainer.load_state(options.state)
    train(trainer, options.out, options.state)


if __name__ == "__main__":
    main()
