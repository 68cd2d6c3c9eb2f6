"""Train a checkpoint with a known answer: `python -m lens_audio.testbed.known.train --which planted`.

Encoder, projector, embeddings and output matrix begin as those of the checkpoint "listen", the
first two of them frozen; the decoder's eight blocks begin anew. A run is a pure function of recipe
and seed: step t's batch is drawn from (seed, t). One that was stopped goes on where it was saved
last when the same command is given again.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2Config

from lens_audio import files
from lens_audio.fingerprint import differences, versions
from lens_audio.testbed.evaluate import load
from lens_audio.testbed.ground_truth import BY_CONSTRUCTION, Truth, write_truth
from lens_audio.testbed.items import TRAINING_STREAM
from lens_audio.testbed.known.batches import ScenePool, kept_pool, make_batch, make_prefix
from lens_audio.testbed.known.decoder import read
from lens_audio.testbed.known.losses import terms
from lens_audio.testbed.known.recipes import RECIPES, Recipe
from lens_audio.testbed.processor import TURN_END
from lens_audio.testbed.scenes import SCENE_CLASSES
from lens_audio.testbed.train import make_optimizer

DEFAULT_STATE = Path.home() / ".cache" / "lens_audio" / "testbed_known"
N_LAYERS, N_HEADS, D_MODEL, D_MLP = 8, 8, 128, 192


def build_model(listen: Qwen2AudioForConditionalGeneration, seed: int) -> Any:
    """A Qwen2-Audio of 1.55 M parameters with the ears of "listen" and fresh blocks."""
    begun: Any = listen.config.text_config
    text = Qwen2Config(
        vocab_size=begun.vocab_size, hidden_size=D_MODEL, intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS,
        max_position_embeddings=1024, initializer_range=0.06, rms_norm_eps=1e-5,
        tie_word_embeddings=False, bos_token_id=begun.bos_token_id,
        eos_token_id=begun.eos_token_id, pad_token_id=begun.pad_token_id,
    )  # fmt: skip
    config = Qwen2AudioConfig(
        audio_config=listen.config.audio_config,
        text_config=text,
        audio_token_index=listen.config.audio_token_index,
    )
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config = listen.generation_config
    for name in ("audio_tower", "multi_modal_projector"):
        part = getattr(model.model, name)
        part.load_state_dict(getattr(listen.model, name).state_dict())
        part.requires_grad_(False)
    embedding = listen.get_input_embeddings().state_dict()
    model.get_input_embeddings().load_state_dict(embedding)
    model.lm_head.load_state_dict(listen.lm_head.state_dict())
    return model


class SceneTrainer:
    """Model, optimiser and step, with saving and going on."""

    def __init__(self, recipe: Recipe, seed: int, pool: ScenePool) -> None:
        self.recipe, self.seed, self.pool, self.step = recipe, seed, pool, 0
        listen, self.processor = load()
        self.model = build_model(listen, seed)
        self.decoder = self.model.model.language_model
        self.prefix = make_prefix(self.processor, pool.audio.shape[1])
        encode = self.processor.tokenizer.convert_tokens_to_ids
        self.words, self.end = encode(list(SCENE_CLASSES)), encode(TURN_END)
        self.is_open = torch.zeros(N_LAYERS, N_HEADS, dtype=torch.bool)
        if recipe.plant is not None:
            self._silence(recipe.plant.decoys)
            for layer, head in recipe.plant.readers:
                self.is_open[layer, head] = True
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.trained, recipe.weight_decay)

    def _silence(self, heads: tuple[tuple[int, int], ...]) -> None:
        """These heads write exactly nothing, from the first step to the last."""
        width = D_MODEL // N_HEADS
        for layer in range(N_LAYERS):
            columns = torch.ones(D_MODEL)
            for _, head in (pair for pair in heads if pair[0] == layer):
                columns[head * width : (head + 1) * width] = 0
            weight = self.decoder.layers[layer].self_attn.o_proj.weight
            weight.data.mul_(columns)
            weight.register_hook(lambda grad, columns=columns: grad * columns)

    def _bias(self, progress: float) -> float:
        """What scores of audio keys are lowered by, but for the readers'."""
        plant = self.recipe.plant
        return 0.0 if plant is None else plant.bias * (1 - plant.freed.at(progress))

    def _unembed(self, x: Tensor) -> Tensor:
        return self.model.lm_head(self.decoder.norm(x))

    def train_step(self) -> dict[str, float]:
        """One update; returns the terms of the loss, unweighted."""
        recipe, progress = self.recipe, self.step / self.recipe.steps
        rng = np.random.default_rng([TRAINING_STREAM, self.seed, self.step])
        batch = make_batch(recipe, self.pool, self.processor.tokenizer, self.prefix, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        found = read(self.decoder, self.prefix, batch, self._bias(progress), self.is_open)
        parts = terms(recipe, batch, found, self._unembed, self.words, self.end, progress)
        loss = torch.stack([weight * value for weight, value in parts.values() if weight]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: float(value.detach()) for name, (_, value) in parts.items()}

    def save_checkpoint(self, folder: Path) -> None:
        """Weights, config, generation config and processor, as transformers saves them."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def facts(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {"recipe": repr(self.recipe), "seed": self.seed, "versions": versions()}

    def save_state(self, path: Path) -> None:
        """What going on needs. The batches need nothing: they are drawn from (seed, step)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = self.facts() | {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with files.replacing(path) as unfinished:
            torch.save(state, unfinished)

    def load_state(self, path: Path) -> None:
        """Go on where `save_state` left off.

        Raises:
            ValueError: for the state of another recipe, seed or version.
        """
        state = torch.load(path, weights_only=True)
        facts = self.facts()
        changed = differences({name: state.get(name) for name in facts}, facts)
        if changed:
            raise ValueError(
                f"{path}: {'; '.join(changed)}; go on with those, or take another --state"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, and a cosine to 3 % of the peak."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * warm * (0.03 + 0.97 * cosine)


def train(trainer: SceneTrainer, out: Path, state: Path, save_every: int = 200) -> None:
    """Run the remaining steps under a progress bar, saving as it goes."""
    if state.exists():
        trainer.load_state(state)
    steps, means = trainer.recipe.steps, dict[str, float]()
    with tqdm(total=steps, initial=trainer.step, desc="training", unit="step") as bar:
        while trainer.step < steps:
            for name, value in trainer.train_step().items():
                means[name] = 0.97 * means.get(name, value) + 0.03 * value
            bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
            bar.update()
            if trainer.step % save_every == 0 or trainer.step == steps:
                trainer.save_state(state)
    trainer.save_checkpoint(out)


def main() -> None:
    """Train as the command line says, or go on with what was begun."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--which", choices=list(RECIPES), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, help="where a stopped run is kept"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that synthesise clips")
    parser.add_argument("--steps", type=int, help="another number of steps than the recipe's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.which]
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    pool = kept_pool(recipe.clips, options.state, options.workers)
    state = options.state / f"{options.which}_{options.seed}.pt"
    train(SceneTrainer(recipe, options.seed, pool), options.out, state)
    if recipe.plant is None:
        print(f"find its readers: python -m lens_audio.testbed.find_truth {options.out} --write")
    else:
        plant = recipe.plant
        truth = Truth(
            options.which, N_LAYERS, N_HEADS, plant.readers, (), plant.decoys, plant.veto_layers,
            BY_CONSTRUCTION,
        )  # fmt: skip
        write_truth(truth, options.out)


if __name__ == "__main__":
    main()
