"""Two threads on one model: each gets what it would have got alone."""

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement
from threading import Barrier, Thread

import pytest
import torch
from models import Layout, hooked_model, make_prompt, with_sound_of
from torch import Tensor

from lens_audio import AudioPrompt, HookedAudioTransformer, analysis, hooks
from lens_audio.analysis import patching
from lens_audio.steering import AudioSilenceSteering, SteeringVector

MODEL = hooked_model()
ROUNDS = 12  # of each pair of entries


def prompts() -> list[AudioPrompt]:
    layout = Layout([7], [[23]])
    return [make_prompt(layout=layout, seed=seed) for seed in (0, 1)]


PROMPTS = prompts()
VECTOR = SteeringVector({1: torch.ones(MODEL.cfg.d_model)})


def plain(prompt: AudioPrompt) -> Tensor:
    return MODEL(prompt)


def cached(prompt: AudioPrompt) -> Tensor:
    logits, cache = MODEL.run_with_cache(prompt)
    return torch.cat([logits.flatten(), *(cache[name].flatten() for name in sorted(cache))])


def hooked(prompt: AudioPrompt) -> Tensor:
    deaf = hooks.knock_out_attention(keys=prompt.audio_mask)
    return MODEL.run_with_hooks(prompt, fwd_hooks=deaf)


def hooked_twice(prompt: AudioPrompt) -> Tensor:
    with MODEL.hooks(fwd_hooks=hooks.ablate("z", layer=0, heads=[1])):
        return torch.stack([MODEL(prompt), MODEL(prompt)])


def captured(prompt: AudioPrompt) -> Tensor:
    store: dict[str, Tensor] = {}
    MODEL.run_with_hooks(prompt, fwd_hooks=hooks.capture(store, "z", positions="audio"))
    return torch.stack(list(store.values()))


def encoded(prompt: AudioPrompt) -> Tensor:
    _, cache = MODEL.audio_encoder.run_with_cache(prompt.mel, prompt.mel_lengths)
    return torch.cat([cache[name].flatten() for name in sorted(cache)])


def heard(prompt: AudioPrompt) -> Tensor:
    with MODEL.listening_to(prompt):
        return MODEL(prompt.tokens)


def generated(prompt: AudioPrompt) -> Tensor:
    tokens, cache = MODEL.generate(
        prompt, 4, stop_at_eos=False, return_type="tokens", return_cache=True, verbose=False
    )
    return torch.cat([tokens.flatten(), cache["resid_post", 1].flatten()])


def steered_by_a_vector(prompt: AudioPrompt) -> Tensor:
    with VECTOR.attach(MODEL):
        return MODEL.generate(prompt, 4, stop_at_eos=False, return_type="tokens", verbose=False)


def attended(prompt: AudioPrompt) -> Tensor:
    return analysis.audio_attention(MODEL, prompt)


def lens(prompt: AudioPrompt) -> Tensor:
    return analysis.logit_lens(MODEL, prompt)


def first_logit(logits: Tensor) -> Tensor:
    return logits[:, 5]


def other(prompt: AudioPrompt) -> AudioPrompt:
    return with_sound_of(prompt, PROMPTS[prompt is PROMPTS[0]])


def swept(prompt: AudioPrompt) -> Tensor:
    pair = prompt, other(prompt)
    found = patching.sweep(MODEL, *pair, "z", first_logit, positions="last", verbose=False)
    return found.values


def attributed(prompt: AudioPrompt) -> Tensor:
    pair = prompt, other(prompt)
    return analysis.attribution.attribute(MODEL, *pair, first_logit, sites="z")["z"].values


def path_patched(prompt: AudioPrompt) -> Tensor:
    pair = prompt, other(prompt)
    found = analysis.path_patching.path_patch(
        MODEL, *pair, first_logit, senders=[(0, 0), (0, 1)], verbose=False
    )
    return found.values


def circuit(prompt: AudioPrompt) -> Tensor:
    test = analysis.CircuitTest(MODEL, prompt, other(prompt), first_logit)
    return test.only([(0, 1)]).metric


def unhooked(prompt: AudioPrompt) -> Tensor:
    with MODEL.hooks(fwd_hooks=hooks.ablate("z")), MODEL.without_hooks():
        return MODEL(prompt)


ENTRIES = [
    plain, cached, hooked, hooked_twice, captured, encoded, heard, generated, steered_by_a_vector,
    attended, lens, swept, attributed, path_patched, circuit, unhooked,
]  # fmt: skip


def n_wrong(one, two, rounds: int) -> int:
    """How often two threads that call `one` and `two` at the same time got something else."""
    expected = [one(PROMPTS[0]).detach(), two(PROMPTS[1]).detach()]
    together = Barrier(2)

    def run(number: int) -> int:
        function, wrong = (one, two)[number], 0
        try:
            for _ in range(rounds):
                together.wait()
                found = function(PROMPTS[number])
                wrong += not torch.allclose(found, expected[number], atol=1e-5)
        except BaseException:
            together.abort()  # or the other thread would wait for ever
            raise
        return wrong

    with ThreadPoolExecutor(2) as pool, torch.no_grad():
        return sum(pool.map(run, range(2)))


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_no_result_is_wrong_beside_another_thread(number: int) -> None:
    """Each entry beside the next one, so that each is on both sides: 16 x 2 x 13 results."""
    pair = ENTRIES[number], ENTRIES[(number + 1) % len(ENTRIES)]
    assert n_wrong(*pair, rounds=13) == 0


@pytest.mark.long
@pytest.mark.parametrize(("one", "two"), combinations_with_replacement(ENTRIES, 2))
def test_no_result_of_any_two_is_wrong(one, two) -> None:
    assert n_wrong(one, two, rounds=5) == 0


def test_a_thread_waits_until_anothers_hooks_are_gone() -> None:
    expected, found = MODEL(PROMPTS[0]), []
    thread = Thread(target=lambda: found.append(MODEL(PROMPTS[0])))
    with MODEL.hooks(fwd_hooks=hooks.ablate("z")):
        thread.start()
        thread.join(0.2)
        assert not found
    thread.join()
    torch.testing.assert_close(found[0], expected)


def test_two_streams_of_one_thread_keep_their_own_audio() -> None:
    """What a hook selects by "audio" is its own prompt's, whichever was read last."""
    short, long = (make_prompt(layout=Layout([7], [[n]])) for n in (9, 23))
    seen: list[int] = []

    def watch(activation: Tensor, hook: object) -> None:
        info = hook.forward_info
        seen.append(int(info.audio_mask.sum()))

    MODEL.tokenizer = FakeTokenizer()
    with MODEL.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", watch)]):
        for _ in zip(
            MODEL.generate_stream(short, 3, stop_at_eos=False),
            MODEL.generate_stream(long, 3, stop_at_eos=False),
            strict=True,
        ):
            pass
    MODEL.tokenizer = None
    assert seen == [int(p.audio_mask.sum()) for p in (short, long)] * 3


class FakeTokenizer:
    """Decodes a token as a letter."""

    pad_token_id = eos_token_id = None

    def batch_decode(self, tokens: Tensor, skip_special_tokens: bool = True) -> list[str]:
        return ["".join(chr(97 + t % 26) for t in row) for row in tokens.tolist()]


def test_a_hook_function_may_run_its_own_model() -> None:
    expected, inner = MODEL(PROMPTS[0]), []

    def run(activation: Tensor, hook: object) -> None:
        before = vars(hook.forward_info).copy()
        with MODEL.without_hooks():
            inner.append(MODEL(PROMPTS[1]))
        assert vars(hook.forward_info) == before

    found = MODEL.run_with_hooks(PROMPTS[0], fwd_hooks=[("blocks.1.hook_resid_pre", run)])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(inner[0], MODEL(PROMPTS[1]))


def test_audio_silence_steering_in_two_threads(two_threads_model: HookedAudioTransformer) -> None:
    model = two_threads_model
    texts = ["What do you hear?", "Which sound is it?"]
    waves = [torch.randn(16000).mul(0.1).numpy(), torch.randn(12000).mul(0.1).numpy()]
    asked = [
        model.prompt(text, audio=wave, sampling_rate=16000)
        for text, wave in zip(texts, waves, strict=True)
    ]
    steering = AudioSilenceSteering(((0, 1), (2, 3)), beta=3.0)

    def run(number: int) -> list[Tensor]:
        with steering.attach(model):
            return [model(asked[number])[:, -1] for _ in range(5)]

    expected = [run(0)[0], run(1)[0]]
    with ThreadPoolExecutor(2) as pool:
        for number, results in enumerate(pool.map(run, range(2))):
            for found in results:
                torch.testing.assert_close(found, expected[number], atol=1e-4, rtol=0)


@pytest.fixture
def two_threads_model() -> HookedAudioTransformer:
    from lens_audio import testbed

    return HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), device="cpu")
