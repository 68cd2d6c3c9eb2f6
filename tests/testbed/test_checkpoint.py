"""The shipped checkpoint: small, complete, and as accurate as its model card says."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor, Qwen2Tokenizer

from lens_audio.testbed import checkpoint_dir, demo_item, make_items
from lens_audio.testbed.evaluate import accuracy, answers, load, model_inputs
from lens_audio.testbed.processor import SPECIAL_TOKENS, chat_prompt
from lens_audio.testbed.sounds import CLASSES

Loaded = tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]
WORDS = (*CLASSES, "yes", "no")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load()


def test_folder_is_complete_and_under_8_megabytes() -> None:
    folder = checkpoint_dir()
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= names
    assert {"tokenizer.json", "processor_config.json", "chat_template.jinja"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_audio"
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        count = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    assert 1e6 < count < 3e6


def test_processor_loads_as_the_real_classes(loaded: Loaded) -> None:
    model, processor = loaded
    assert isinstance(processor, Qwen2AudioProcessor)
    assert isinstance(processor.tokenizer, Qwen2Tokenizer)
    assert len(processor.tokenizer) == model.config.text_config.vocab_size
    for token in SPECIAL_TOKENS:
        assert len(processor.tokenizer.encode(token)) == 1


@pytest.mark.parametrize(
    "text", ["héllo ∑ 漢字 🎵", "\x00\t it's  two\n\n lines ", "MMAU: 'a', \"b\""]
)
def test_tokenizer_round_trips_any_text(loaded: Loaded, text: str) -> None:
    tokenizer = loaded[1].tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_choice_words_are_distinct_single_tokens_after_the_header_and_in_options(
    loaded: Loaded,
) -> None:
    tokenizer = loaded[1].tokenizer
    header = tokenizer.encode("<|im_start|>assistant\n")
    for word in WORDS:
        ids = tokenizer.encode(f"<|im_start|>assistant\n{word}<|im_end|>")
        assert ids[: len(header)] == header
        assert len(ids) == len(header) + 2
        assert tokenizer.encode(word) == [ids[-2]]
        assert ids[-2] in tokenizer.encode(f"options: ['{word}', 'other', '{word}'].")
    assert len({tokenizer.encode(word)[0] for word in WORDS}) == len(WORDS)


def test_audio_placeholder_expands_to_40_ms_tokens(loaded: Loaded) -> None:
    model, processor = loaded
    (item,) = make_items(1, 0)
    inputs = model_inputs(processor, [item])
    n = int((inputs["input_ids"] == model.config.audio_token_index).sum())
    assert n == pytest.approx(len(item.waveform) / item.sampling_rate / 0.04, abs=1)
    prompt = chat_prompt(processor, item.question)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert prompt.count("<|AUDIO|>") == 1


def test_generation_gives_one_word_and_stops(loaded: Loaded) -> None:
    model, processor = loaded
    inputs = model_inputs(processor, [demo_item()])
    new = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(new, skip_special_tokens=True)
    assert text == demo_item().answer
    assert len(new) == 2


def test_demo_is_answered_right(loaded: Loaded) -> None:
    assert list(answers(*loaded, [demo_item()])) == [demo_item().answer]


@pytest.mark.parametrize(
    ("caption", "low", "high"), [("true", 0.95, 1.0), ("none", 0.90, 1.0), ("false", 0.10, 0.50)]
)
def test_accuracy_on_fresh_items_is_in_its_band(
    loaded: Loaded, caption: str, low: float, high: float
) -> None:
    measured = accuracy(*loaded, make_items(120, 31_415, caption))
    # The 95 % interval must reach the band: 120 items are few.
    assert measured.interval[1] >= low
    assert measured.interval[0] <= high


@torch.no_grad()
def test_text_only_prompt_is_answered_by_its_caption(loaded: Loaded) -> None:
    model, processor = loaded
    (item,) = make_items(1, 3, "true")
    inputs = processor(text=chat_prompt(processor, item.question, False), return_tensors="pt")
    best = int(model(**inputs).logits[0, -1].argmax())
    assert processor.tokenizer.decode([best]) == item.captioned
