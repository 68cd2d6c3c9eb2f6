"""What a checkpoint tells before its weights are read: its sizes, its tokenizer, what it hears."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.checkpoints.dispatch import dispatch
from lens_audio.checkpoints.families import family_of
from lens_audio.checkpoints.pretrained import read_config, read_config_json, resolve_device
from lens_audio.cli.checks import checkpoint_files, checkpoint_path
from lens_audio.cli.recording import heard_seconds
from lens_audio.config import AudioModelConfig
from lens_audio.data.items import AudioQAItem
from lens_audio.inputs import build_prompt

DEFAULT_QUESTION = "What do you hear?"


@dataclass(frozen=True)
class CheckpointFiles:
    """The small files of a checkpoint, read.

    It has the `cfg`, `processor` and `tokenizer` of the model to be, for checks that need no more.
    """

    cfg: AudioModelConfig
    processor: Any
    tokenizer: Any

    @classmethod
    def read(cls, model: str | None, device: str | None = None) -> "CheckpointFiles":
        """Of a folder, a hub id, or None for the embedded checkpoint.

        Raises:
            FileNotFoundError: for neither a folder nor a hub id.
            ValueError: for another architecture, damaged files, none of a processor, or a device
                that does not exist.
        """
        resolve_device(device)
        folder = checkpoint_files(model)
        config = read_config_json(folder)
        family = family_of(config)
        cfg = read_config(folder, config, family)
        processor, tokenizer = family.read_processor(folder, cfg)
        if processor is None:
            raise ValueError(
                f"{folder} lacks the files of the tokenizer (tokenizer.json and "
                "tokenizer_config.json, or qwen.tiktoken) or of the feature extractor "
                "(preprocessor_config.json), so it cannot be asked anything; add them"
            )
        return cls(cfg, processor, tokenizer)

    @property
    def n_heads(self) -> int:
        """Heads of all layers together."""
        return self.cfg.n_layers * self.cfg.n_heads

    def prompt(
        self, question: str, audio: Any, max_seconds: float | int | None = None
    ) -> AudioPrompt:
        """A question about a recording, on the CPU.

        Raises:
            What `inputs.build_prompt` raises, and ValueError for more than the model's context.
        """
        prompt = build_prompt(
            self.processor, question, audio, max_seconds=max_seconds, cfg=self.cfg
        )
        n_tokens = prompt.tokens.shape[1]
        if n_tokens > self.cfg.n_ctx:
            raise ValueError(
                f"the prompt has {n_tokens} tokens, but this model's context only {self.cfg.n_ctx}; ask a "
                "shorter question, or keep less of the recording"
            )
        return prompt

    def check_heads(self, k: int) -> None:
        """Refuse more heads than there are.

        Raises:
            ValueError: saying how many there are.
        """
        if k > self.n_heads:
            raise ValueError(
                f"cannot take {k} heads: this model has {self.cfg.n_layers} layers x "
                f"{self.cfg.n_heads} heads = {self.n_heads}"
            )

    def check_items(self, items: Sequence[AudioQAItem]) -> None:
        """Refuse items that cannot be asked, or whose choices begin with the same token.

        The item of the longest recording stands for all in whether it can be asked.

        Args:
            items: their audio is (samples, rate).

        Raises:
            ValueError: saying why.
        """
        longest = max(items, key=_seconds)
        hears = heard_seconds(self)
        if _seconds(longest) > hears:
            raise ValueError(
                f"the recordings last up to {_seconds(longest):.2f} s, but this model hears at most "
                f"{hears:g} s; give another --model"
            )
        self.prompt(longest.question, longest.audio)
        for choices in {tuple(item.choices) for item in items}:
            begun: dict[int, str] = {}
            for choice in choices:
                other = begun.setdefault(first_token(self.tokenizer, choice), choice)
                if other != choice:
                    raise ValueError(
                        f"{other!r} and {choice!r} begin with the same token of this model, so the "
                        "first token cannot tell them apart"
                    )


def _seconds(item: AudioQAItem) -> float:
    samples, rate = item.audio
    return len(samples) / rate


def first_token(tokenizer: Any, answer: str) -> int:
    """The token that an answer begins with."""
    return int(tokenizer.encode(answer, add_special_tokens=False)[0])


def question_of(question: str | None, choices: Sequence[str] | None) -> str:
    """The question to ask, by default what is heard; choices that it does not name are appended."""
    question = question or DEFAULT_QUESTION
    if choices and not all(choice.lower() in question.lower() for choice in choices):
        # R1-AQA's wording, the same that the embedded checkpoint was trained on.
        question += f" Please choose the answer from the following options: {list(choices)}."
    return question


def load(model: str | None, device: str | None, **options: Any) -> HookedAudioTransformer:
    """The checkpoint asked for, or the embedded one."""
    return HookedAudioTransformer.from_pretrained(checkpoint_path(model), device=device, **options)


def load_spread(
    model: str | None, device: str | None, device_map: str | None
) -> HookedAudioTransformer:
    """The checkpoint asked for on this device, or with a `device_map` spread over several."""
    if device_map is None:
        return load(model, device)
    return dispatch(load(model, "cpu"), device_map)
