"""Hooks under generation: with the cache, without it, and teacher-forced, all the same."""

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import KeyValueCache, hooks

SIZES = Sizes(n_ctx=200)
MODEL = hooked_model(SIZES)
PROMPT = make_prompt(SIZES, Layout([7, 5], [[23], [9, 12]]), 1)
OTHER = make_prompt(SIZES, Layout([7, 5], [[23], [9, 12]]), 2)
LENGTH = PROMPT.tokens.shape[1]
STEPS = 6
DIRECTION = torch.randn(SIZES.d_model, generator=torch.Generator().manual_seed(3)) * 3
with torch.no_grad():
    _, SOURCE = MODEL.run_with_cache(OTHER)
MASK = torch.arange(LENGTH) > LENGTH - 3

INTERVENTIONS = {
    "steer last": hooks.steer(DIRECTION, layer=0),
    "steer all": hooks.steer(DIRECTION, layer=0, positions="all"),
    "steer generated": hooks.steer(DIRECTION, layer=0, positions="generated"),
    "steer text": hooks.steer(DIRECTION, layer=0, positions="text"),
    "steer a negative position": hooks.steer(DIRECTION, layer=0, positions=-2),
    "steer a slice": hooks.steer(DIRECTION, layer=0, positions=slice(-4, None)),
    "steer a mask": hooks.steer(DIRECTION, layer=0, positions=MASK),
    "steer before the unembedding": hooks.steer(DIRECTION, site="unembed.hook_in"),
    "steer the embedding": hooks.steer(DIRECTION, site="embed", positions="audio"),
    "steer one row": hooks.steer(DIRECTION, layer=0, coefficient=torch.tensor([0.0, 1.0])),
    "patch all": hooks.patch("resid_pre", layer=1, source=SOURCE),
    "patch the sound": hooks.patch("audio_embed", source=SOURCE),
    "patch the encoder": hooks.patch("audio_encoder.resid_pre", layer=1, source=SOURCE),
    "patch heads": hooks.patch("z", heads=[(0, 1), (1, 2)], source=SOURCE, positions="last"),
    "patch patterns": hooks.patch("pattern", layer=1, source=SOURCE),
    "patch scores": hooks.patch("attn_scores", layer=1, source=SOURCE),
    "zero": hooks.ablate("mlp_out", layer=1, positions="audio"),
    "mean": hooks.ablate("z", layer=1, how="mean", source=SOURCE),
    "mean of rows": hooks.ablate("z", layer=1, how="mean"),
    "resample": hooks.ablate("z", layer=1, how="resample", source=SOURCE),
    "project out": hooks.project_out(DIRECTION, layer=0),
    "knock out": hooks.knock_out_attention(keys="audio"),
    "knock out by mask": hooks.knock_out_attention(keys=PROMPT.audio_mask, queries="last"),
    "knock out what was generated": hooks.knock_out_attention(keys="generated", heads=[0, 1]),
    "scale": hooks.scale_attention(keys="text", queries="generated", factor=4.0),
}


def generate(fwd_hooks, **options):
    store = {}
    watch = hooks.capture(store, "resid_post", layer=-1)
    with MODEL.hooks(fwd_hooks=[*fwd_hooks, *watch]):
        tokens = MODEL.generate(
            PROMPT, STEPS, return_type="tokens", stop_at_eos=False, verbose=False, **options
        )
    return tokens, store["blocks.1.hook_resid_post"]


PLAIN = generate([])[1]


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_with_and_without_cache_and_teacher_forced_agree(name):
    fwd_hooks = INTERVENTIONS[name]
    tokens, resid = generate(fwd_hooks)
    assert resid.shape[1] == LENGTH + STEPS - 1
    again, uncached = generate(fwd_hooks, use_past_kv_cache=False)
    real = torch.nn.functional.pad(PROMPT.attention_mask, (0, STEPS - 1), value=True)
    assert torch.equal(again, tokens)
    torch.testing.assert_close(uncached[real], resid[real], atol=1e-4, rtol=1e-4)
    past, store = KeyValueCache(SIZES.n_layers), {}
    watch = hooks.capture(store, "resid_post", layer=-1)
    with torch.no_grad(), MODEL.hooks(fwd_hooks=[*fwd_hooks, *watch]):
        MODEL(PROMPT, past_kv_cache=past)
        MODEL(tokens[:, :-1], past_kv_cache=past)
    forced = store["blocks.1.hook_resid_post"]
    torch.testing.assert_close(forced[real], resid[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(INTERVENTIONS) - {"steer before the unembedding"}))
def test_every_intervention_acts(name):
    assert not torch.equal(generate(INTERVENTIONS[name])[1], PLAIN)


def test_positions_of_the_prompt_are_not_steered_again_in_generated_tokens():
    store = {}
    edits = hooks.ablate("mlp_out", layer=0, positions=[0, 1, 2])
    with MODEL.hooks([*edits, *hooks.capture(store, "mlp_out", layer=0)]):
        MODEL.generate(PROMPT, 3, verbose=False, return_type="tokens", stop_at_eos=False)
    out = store["blocks.0.hook_mlp_out"]
    assert not out[:, :3].any()
    assert out[0, 3:].all()


def test_patterns_captured_over_steps_are_those_of_one_cache():
    names = [f"blocks.1.attn.hook_{site}" for site in ("pattern", "attn_scores", "rot_k", "z")]
    store = {}
    watch = [
        h
        for n in ("pattern", "attn_scores", "rot_k", "z")
        for h in hooks.capture(store, n, layer=1)
    ]
    with MODEL.hooks(watch):
        _, cache = MODEL.generate(
            PROMPT, 4, return_type="tokens", stop_at_eos=False, verbose=False,
            return_cache=True, names_filter=names,
        )  # fmt: skip
    for name in names:
        torch.testing.assert_close(store[name], cache[name])


def test_a_cache_of_a_whole_generation_patches_generated_tokens_too():
    name = "blocks.1.hook_resid_post"
    options = {"return_type": "tokens", "stop_at_eos": False, "verbose": False}
    tokens, cache = MODEL.generate(OTHER, STEPS, return_cache=True, names_filter=name, **options)
    with MODEL.hooks(hooks.patch("resid_post", layer=1, source=cache)):
        assert torch.equal(MODEL.generate(PROMPT, STEPS, **options), tokens)


@pytest.mark.parametrize("positions", [LENGTH, -LENGTH - 1, torch.ones(LENGTH + 1).bool()])
def test_positions_outside_the_prompt_are_refused(positions):
    with pytest.raises(ValueError, match=f"of {LENGTH}"):
        generate(hooks.ablate("z", positions=positions))


def test_a_source_shorter_than_the_prompt_is_refused():
    source = {name: SOURCE[name][:, 1:] for name in ("blocks.1.hook_resid_pre",)}
    with pytest.raises(ValueError, match="same length"):
        generate(hooks.patch("resid_pre", layer=1, source=source))


def continued(fwd_hooks, prompt, past, tokens=((7,), (8,))):
    with MODEL.hooks(fwd_hooks=fwd_hooks), torch.no_grad():
        return MODEL(torch.tensor(tokens) if past.length else prompt, past_kv_cache=past)


def test_capture_refuses_to_join_two_sequences():
    store, caches = {}, [KeyValueCache(SIZES.n_layers) for _ in range(2)]
    keep = hooks.capture(store, "resid_post", layer=0)
    continued(keep, PROMPT, caches[0])
    continued(keep, OTHER, caches[1])
    with pytest.raises(ValueError, match="of another sequence"):
        continued(keep, PROMPT, caches[0])


def test_capture_of_a_sequence_that_is_continued_again_keeps_the_last_continuation():
    store, past = {}, KeyValueCache(SIZES.n_layers)
    keep = hooks.capture(store, "resid_post", layer=0)
    continued(keep, PROMPT, past)
    continued(keep, PROMPT, past)
    past.cut(LENGTH)
    continued(keep, PROMPT, past, ((9,), (10,)))
    kept = store["blocks.0.hook_resid_post"]
    again, past = {}, KeyValueCache(SIZES.n_layers)
    keep = hooks.capture(again, "resid_post", layer=0)
    continued(keep, PROMPT, past)
    continued(keep, PROMPT, past, ((9,), (10,)))
    torch.testing.assert_close(kept, again["blocks.0.hook_resid_post"])


def test_hooks_know_the_mask_that_was_given_beside_a_prompt():
    mask, told = PROMPT.attention_mask.clone(), []
    mask[0, 0] = False

    def look(activation, hook):
        told.append((hook.forward_info.prompt.attention_mask, hook.forward_info.attention_mask))

    with MODEL.hooks(fwd_hooks=[("blocks.0.hook_resid_post", look)]), torch.no_grad():
        MODEL(PROMPT, attention_mask=mask)
    assert all(torch.equal(found, mask) for found in told[0])


def test_hooks_know_their_own_forward_after_one_that_a_hook_ran():
    told = []

    def run(activation, hook):
        if not told:
            told.append(None)
            MODEL(torch.tensor([[5, 6, 7]]))

    def look(activation, hook):
        told.append((hook.forward_info.prompt, hook.forward_info.n_total))

    pairs = [("blocks.0.hook_resid_post", run), ("blocks.1.hook_resid_post", look)]
    with MODEL.hooks(fwd_hooks=pairs), torch.no_grad():
        MODEL(PROMPT)
    assert told == [None, (None, 3), (PROMPT, LENGTH)]
