"""Audio-silence steering adds beta times the paper's direction, where it says, and nothing else."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lens_audio import AudioPrompt, HookedAudioTransformer, KeyValueCache
from lens_audio.analysis import audio_attention, audio_mass, choice_log_probs
from lens_audio.analysis.dataset import LabelledItem
from lens_audio.analysis.listening import listening_score
from lens_audio.steering import AudioSilenceSteering
from lens_audio.steering.audio_silence.direction import SilenceEmbeddings

HEADS = ((0, 1), (2, 3), (2, 5))
STEERING = AudioSilenceSteering(HEADS, beta=3.0)


def last(model: HookedAudioTransformer, prompt: AudioPrompt, layer: int) -> Tensor:
    name = f"blocks.{layer}.hook_resid_post"
    with torch.no_grad():
        _, cache = model.run_with_cache(prompt, names_filter=name)
    return cache[name][:, -1]


def by_definition(model: HookedAudioTransformer, prompt: AudioPrompt) -> Tensor:
    """s(x) from whole runs over the prompt and over `prompt.silenced()`."""
    silent = prompt.silenced()
    return sum(last(model, prompt, l) - last(model, silent, l) for l in (0, 2)) / 2


def question(item: LabelledItem, model: HookedAudioTransformer, **options: object) -> AudioPrompt:
    return model.prompt(item.question, audio=item.audio, **options)


def test_direction_is_the_mean_difference_over_the_specialists_layers(model, prompt) -> None:
    found = STEERING.directions(model, prompt)
    torch.testing.assert_close(found, by_definition(model, prompt), atol=1e-4, rtol=0)
    assert STEERING.layers == [0, 2]


def test_a_row_without_audio_has_direction_zero_exactly(model, items) -> None:
    a, b = items[:2]
    mixed = model.prompt([a.question, b.question], audio=[a.audio, None])
    found = STEERING.directions(model, mixed)
    assert found[0].any()
    assert not found[1].any()
    plain = model(mixed)
    with STEERING.attach(model):
        steered = model(mixed)
    assert torch.equal(steered[1], plain[1])
    assert not torch.equal(steered[0, -1], plain[0, -1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_adds_beta_s_at_the_last_position_alone(model, items, side) -> None:
    some = items[-3:]
    prompt = model.prompt(
        [i.question for i in some], audio=[i.audio for i in some], padding_side=side
    )
    name = "blocks.3.hook_resid_post"
    s = STEERING.directions(model, prompt)
    _, plain = model.run_with_cache(prompt, names_filter=name)
    with STEERING.attach(model):
        _, steered = model.run_with_cache(prompt, names_filter=name)
    change = steered[name] - plain[name]
    at = prompt.attention_mask.long().cumsum(1).argmax(1)
    torch.testing.assert_close(change[torch.arange(3), at], 3 * s, atol=1e-4, rtol=0)
    change[torch.arange(3), at] = 0
    assert not change.any()


def test_a_batch_is_steered_as_each_of_its_rows_alone(model, items) -> None:
    some = items[-3:]
    batch = model.prompt([i.question for i in some], audio=[i.audio for i in some])
    with STEERING.attach(model), torch.no_grad():
        together = model(batch, logits_to_keep=1)[:, 0]
        alone = [model(question(i, model), logits_to_keep=1)[0, 0] for i in some]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-3, rtol=0)


def test_every_generated_token_is_steered_with_the_prompts_s(model, prompt) -> None:
    s = 3 * STEERING.directions(model, prompt)

    def add(resid: Tensor, hook: object) -> Tensor:
        return torch.cat([resid[:, :-1], resid[:, -1:] + s[:, None]], dim=1)

    options = {"max_new_tokens": 4, "stop_at_eos": False, "return_type": "tokens"}
    with model.hooks(fwd_hooks=[("blocks.3.hook_resid_post", add)]):
        expected = model.generate(prompt, **options)
    with STEERING.attach(model):
        assert torch.equal(model.generate(prompt, **options), expected)
        assert torch.equal(model.generate(prompt, use_past_kv_cache=False, **options), expected)
    assert not torch.equal(model.generate(prompt, **options), expected)


def test_s_is_computed_anew_for_each_prompt_and_forgotten_for_text(model, items) -> None:
    first, second = (question(item, model) for item in items[-2:])
    text = model.prompt(items[0].question)
    expected = []
    for prompt in (first, second):
        with STEERING.attach(model):
            expected.append(model(prompt))
    plain, bare = model(text), model(text.tokens)
    with STEERING.attach(model):
        for _ in range(2):
            torch.testing.assert_close(model(first), expected[0])
            assert torch.equal(model(text), plain)
            assert torch.equal(model(text.tokens), bare)
            torch.testing.assert_close(model(second), expected[1])


@pytest.mark.parametrize("adaptive", ["constant", "listening", "confidence"])
@pytest.mark.parametrize("fixed", [False, True])
def test_text_only_prompts_are_unchanged_exactly(model, items, adaptive, fixed) -> None:
    direction = torch.ones(model.cfg.d_model) if fixed else None
    steering = AudioSilenceSteering(HEADS, 5.0, adaptive, direction)
    text = model.prompt([item.question for item in items[:3]])
    plain = model(text)
    with steering.attach(model):
        assert torch.equal(model(text), plain)
    written = model.generate(text, max_new_tokens=3)
    with steering.attach(model):
        assert model.generate(text, max_new_tokens=3) == written


def test_beta_zero_changes_nothing(model, prompt) -> None:
    plain = model(prompt)
    with STEERING.with_beta(0).attach(model):
        assert torch.equal(model(prompt), plain)


def test_a_fixed_direction_takes_the_place_of_s(model, prompt) -> None:
    direction = torch.randn(model.cfg.d_model)
    steering = AudioSilenceSteering(HEADS, 2.0, direction=direction)
    assert torch.equal(steering.directions(model, prompt), direction.expand(3, -1))


def test_adaptive_strength_falls_with_listening_and_with_confidence(model, prompt) -> None:
    name = "blocks.3.hook_resid_post"
    s = STEERING.directions(model, prompt)
    logits, plain = model.run_with_cache(prompt, names_filter=name)
    score = listening_score(audio_mass(audio_attention(model, prompt)), HEADS)
    sure = logits[:, -1].softmax(-1).amax(-1)
    for adaptive, factor in (("listening", 1 - score), ("confidence", 1 - sure)):
        with AudioSilenceSteering(HEADS, 3.0, adaptive).attach(model):
            _, steered = model.run_with_cache(prompt, names_filter=name)
        change = steered[name][:, -1] - plain[name][:, -1]
        torch.testing.assert_close(change, 3 * factor[:, None] * s, atol=1e-4, rtol=0)


def test_composes_with_hooks_and_caches_which_never_see_the_inner_runs(model, prompt) -> None:
    seen: list[Tensor] = []

    def watch(resid: Tensor, hook: object) -> None:
        seen.append(resid)

    with STEERING.attach(model):
        model.run_with_hooks(prompt, fwd_hooks=[("blocks.0.hook_resid_post", watch)])
        _, cache = model.run_with_cache(prompt)
    assert len(seen) == 1
    assert len(cache["blocks.0.hook_resid_pre"]) == len(prompt)


def test_listening_to_is_steered_as_the_prompt(model, prompt) -> None:
    with STEERING.attach(model):
        expected = model(prompt)
        with model.listening_to(prompt):
            torch.testing.assert_close(model(prompt.tokens), expected)


def test_a_copy_made_while_steered_is_a_plain_model(model, prompt) -> None:
    plain = model(prompt)
    with STEERING.attach(model):
        steered = model(prompt)
        copied = deepcopy(model)
        torch.testing.assert_close(copied(prompt), plain)
        torch.testing.assert_close(model(prompt), steered)
    torch.testing.assert_close(copied(prompt), plain)
    with STEERING.attach(copied):
        torch.testing.assert_close(copied(prompt), steered)


def test_a_copy_keeps_the_hooks_that_were_added_for_good(model, prompt) -> None:
    copied = deepcopy(model)
    copied.add_hook("blocks.3.hook_resid_post", lambda x, hook: 0 * x)
    again = deepcopy(copied)
    torch.testing.assert_close(again(prompt), copied(prompt))
    again.reset_hooks()
    torch.testing.assert_close(again(prompt), model(prompt))


def test_the_cache_of_an_earlier_prompt_is_continued_with_its_own_s(model, items) -> None:
    first, second = (question(item, model) for item in items[-2:])
    token = torch.tensor([[7]])
    with STEERING.attach(model):
        past = KeyValueCache(model.cfg.n_layers)
        model(first, past_kv_cache=past)
        expected = model(token, past_kv_cache=past)
        past = KeyValueCache(model.cfg.n_layers)
        model(first, past_kv_cache=past)
        model(second)
        torch.testing.assert_close(model(token, past_kv_cache=past), expected)


def test_refuses_a_cache_from_before_it_was_attached(model, prompt) -> None:
    past = KeyValueCache(model.cfg.n_layers)
    model(prompt, past_kv_cache=past)
    with STEERING.attach(model), pytest.raises(ValueError, match="before steering was attached"):
        model(torch.full((3, 1), 7), past_kv_cache=past)


def test_scores_of_several_token_answers_are_steered_throughout(model, prompt) -> None:
    choices = ["bell rings", "rain"]
    plain = choice_log_probs(model, prompt, choices)
    with STEERING.attach(model):
        steered = choice_log_probs(model, prompt, choices)
    assert not torch.allclose(plain, steered)
    torch.testing.assert_close(choice_log_probs(model, prompt, choices), plain)


def test_detaches_after_an_exception(model, prompt) -> None:
    plain = model(prompt)
    with pytest.raises(RuntimeError, match="mine"), STEERING.attach(model):
        raise RuntimeError("mine")
    assert torch.equal(model(prompt), plain)
    assert not any(point.has_hooks() for point in model.hook_points())


def test_a_failed_forward_leaves_the_model_steerable(model, prompt) -> None:
    def fail(resid: Tensor, hook: object) -> None:
        raise RuntimeError("mine")

    with STEERING.attach(model):
        expected = model(prompt)
        with pytest.raises(RuntimeError, match="mine"):
            model.run_with_hooks(prompt, fwd_hooks=[("blocks.1.hook_resid_pre", fail)])
        torch.testing.assert_close(model(prompt), expected)


def test_silence_is_encoded_once_a_length(model, prompt, monkeypatch) -> None:
    silences = SilenceEmbeddings()
    first = STEERING.directions(model, prompt, silences)
    calls = []
    embed = model.embed_audio
    monkeypatch.setattr(model, "embed_audio", lambda *a: calls.append(1) or embed(*a))
    again = STEERING.directions(model, prompt, silences)
    assert torch.equal(first, again)
    assert len(calls) == 1  # the sounds; not the silence


def test_only_layers_up_to_the_last_specialist_run(model, prompt, monkeypatch) -> None:
    monkeypatch.setattr(model.blocks[3], "forward", None)
    STEERING.directions(model, prompt)


def test_gradients_flow_through_a_steered_run(model, prompt) -> None:
    with STEERING.attach(model):
        loss = model(prompt, return_type="loss")
    loss.backward()
    assert model.embed.W_E.grad.isfinite().all()
    model.zero_grad(set_to_none=True)


def test_hooks_set_aside_come_back(model) -> None:
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: None)]):
        point = model.hook_dict["blocks.0.hook_resid_pre"]
        with pytest.raises(RuntimeError), model.without_hooks():
            assert not point.has_hooks()
            raise RuntimeError
        assert point.has_hooks()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ()}, "no specialist heads"),
        ({"beta": float("nan")}, "finite"),
        ({"adaptive": "often"}, "adaptive must be one of"),
        ({"direction": torch.tensor([float("inf")])}, "infinite"),
    ],
)
def test_refuses_bad_settings(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        AudioSilenceSteering(**{"heads": HEADS, **options})


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (AudioSilenceSteering(((9, 0),)), r"head \(9, 0\) does not exist"),
        (AudioSilenceSteering(((0, 1), (0, 1))), "given twice"),
        (AudioSilenceSteering(HEADS, direction=torch.ones(5)), "width 5"),
        (
            AudioSilenceSteering(HEADS, provenance={"model": {"n_layers": 32, "d_model": 4096}}),
            r"n_layers 32 \(this model: 4\), d_model 4096",
        ),
    ],
)
def test_refuses_a_model_it_does_not_fit(model, steering, message) -> None:
    with pytest.raises(ValueError, match=message), steering.attach(model):
        pass


def test_refuses_a_residual_stream_another_steering_and_another_batch(model, prompt) -> None:
    resid = model(prompt, stop_at_layer=1)
    with STEERING.attach(model):
        with pytest.raises(ValueError, match="start_at_layer gives no prompt"):
            model(resid, start_at_layer=1)
        with pytest.raises(ValueError, match="steered already"), STEERING.attach(model):
            pass


def test_saved_steering_loads_with_its_provenance(model, prompt, tmp_path) -> None:
    path = tmp_path / "steering.safetensors"
    facts = {"model": {"name": "x", "n_layers": 4, "n_heads": 8, "d_model": 128}, "data": {"n": 3}}
    for direction in (None, torch.randn(128)):
        steering = AudioSilenceSteering(HEADS, 2.5, "listening", direction, facts)
        steering.save(path)
        loaded = AudioSilenceSteering.load(path, model)
        assert (loaded.heads, loaded.beta, loaded.adaptive) == (HEADS, 2.5, "listening")
        assert loaded.provenance == facts
        expected = steering.directions(model, prompt)
        assert torch.equal(loaded.directions(model, prompt), expected)


@pytest.mark.parametrize(
    "facts", [None, "{", "[" * 100_000, "[]", "3", '{"beta": 1}', '{"heads": 3}', '{"heads": [[0]]}',
              '{"heads": [[0, 1]], "beta": []}', '{"heads": [[0, 1]], "more": 1}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, facts) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"lens_audio": "AudioSilenceSteering"} | ({} if facts is None else {"facts": facts})
    save_file({"none": torch.zeros(0)}, path, metadata)
    with pytest.raises(ValueError, match="is damaged"):
        AudioSilenceSteering.load(path)


def test_refuses_files_that_hold_something_else(model, tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        AudioSilenceSteering.load(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        AudioSilenceSteering.load(path)
    AudioSilenceSteering(HEADS, provenance={"model": {"d_model": 7}}).save(path)
    with pytest.raises(ValueError, match="d_model 7"):
        AudioSilenceSteering.load(path, model)
    with pytest.raises(FileNotFoundError, match="no folder"):
        STEERING.save(tmp_path / "missing" / "x.safetensors")
