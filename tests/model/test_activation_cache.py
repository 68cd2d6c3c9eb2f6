"""A cache of rows and clips: sliced by row, each row keeping its own clips.

The right values come from running each row alone.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformer_lens
from hypothesis import given
from hypothesis import strategies as st
from models import AUDIO_TOKEN, Layout, Sizes, hooked_model, make_prompt
from transformer_lens.utilities import Slice

import lens_audio as la

SIZES = Sizes()
MODEL = hooked_model(SIZES)
LAYOUTS = {
    "one row of two clips": Layout([7], [[23, 9]]),
    "one row of text": Layout([7], [[]]),
    "a row of text between": Layout([7, 5, 9], [[23, 9], [], [12]]),
    "two clips in every row": Layout([7, 5, 9], [[23, 9], [12, 30], [8, 17]], "right"),
    "one clip in three rows": Layout([7, 5, 9], [[], [23], []]),
}
PROMPTS = {name: make_prompt(SIZES, layout) for name, layout in LAYOUTS.items()}
BATCH = PROMPTS["a row of text between"]
ROWS = [(name, row) for name, prompt in PROMPTS.items() for row in range(len(prompt))]
CLIPS = [range(0, 2), range(2, 2), range(2, 3)]  # of BATCH's rows
FILTERS = {
    "everything": None,
    "the encoder": lambda name: name.startswith("audio_encoder"),
    "the decoder": lambda name: not name.startswith(("audio_", "hook_audio")),
    "both": ["hook_audio_embed", "blocks.1.hook_resid_post"],
}


def run(prompt, model=MODEL, **options):
    with torch.no_grad():
        return model.run_with_cache(prompt, **options)


def cached(prompt, **options):
    return run(prompt, **options)[1]


@functools.cache
def ran(layout, which="everything"):
    """The logits and the cache of a whole batch, which no test changes."""
    return run(PROMPTS[layout], names_filter=FILTERS[which])


def whole(which="everything", layout="a row of text between"):
    """The cache of BATCH."""
    return ran(layout, which)[1]


@functools.cache
def ran_alone(layout, row):
    return cached(alone(PROMPTS[layout], row))


def alone(prompt, row):
    """One row as a prompt of its own, without its padding."""
    real, clips = prompt.attention_mask[row], list(prompt.clips_of(row))
    return replace(
        prompt,
        tokens=prompt.tokens[[row]][:, real],
        attention_mask=prompt.attention_mask[[row]][:, real],
        audio_mask=prompt.audio_mask[[row]][:, real],
        mel=prompt.mel[clips] if clips else None,
        mel_lengths=prompt.mel_lengths[clips] if clips else None,
    )


def is_by_clip(name):
    return name.startswith(("audio_", "hook_audio_embed"))


def assert_is_the_row_alone(cache, row, which="everything", layout="a row of text between"):
    """`cache` has one row, with its batch dimension, and it is this one."""
    real = PROMPTS[layout].attention_mask[row]
    expected = cached(alone(PROMPTS[layout], row), names_filter=FILTERS[which])
    for name, found in cache.items():
        if name not in expected.cache_dict:
            assert is_by_clip(name), name
            assert len(found) == 0, name
            continue
        if name.endswith(("hook_attn_scores", "hook_pattern")) and not is_by_clip(name):
            found = found[:, :, real][..., real]
        elif name == "hook_audio_embed":
            found = found[:, : expected[name].shape[1]]
        elif not is_by_clip(name):
            found = found[:, real]
        torch.testing.assert_close(
            found, expected[name], atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert set(expected) <= set(cache)


@pytest.mark.parametrize("which", FILTERS)
@pytest.mark.parametrize(("layout", "row"), ROWS)
def test_a_slice_to_one_row_is_that_row_run_alone(layout, row, which):
    cache = whole(which, layout).apply_slice_to_batch_dim([row])
    assert_is_the_row_alone(cache, row, which, layout)


@pytest.mark.parametrize(
    ("batch_slice", "rows"),
    [
        ((2,), [0, 1]),
        ((1, 3), [1, 2]),
        ((0, 3, 2), [0, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ([-1, 0, 0], [2, 0, 0]),
        (torch.tensor([2, 1]), [2, 1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([0]), [0]),
        (Slice([1, 2]), [1, 2]),
        (None, [0, 1, 2]),
    ],
    ids=str,
)
def test_every_form_of_slice_keeps_the_clips_of_its_rows(batch_slice, rows):
    cache = whole("both").apply_slice_to_batch_dim(batch_slice)
    assert cache.has_batch_dim
    for i, row in enumerate(rows):
        assert_is_the_row_alone(cache.apply_slice_to_batch_dim([i]), row, "both")


@pytest.mark.parametrize("row", [0, 1, 2, -1, np.int64(1), torch.tensor(2)], ids=str)
def test_one_row_by_its_number_loses_the_batch_dimension(row):
    cache = whole().apply_slice_to_batch_dim(row)
    clips = list(CLIPS[int(row)])
    assert not cache.has_batch_dim
    for name, x in whole().items():
        axis_stays = is_by_clip(name) and len(clips) != 1
        places = [int(row)] if not is_by_clip(name) else clips
        assert torch.equal(cache[name], x[places] if axis_stays else x[places][0]), name


@given(st.lists(st.integers(-3, 2), min_size=1, max_size=5), st.data())
def test_slicing_twice_is_slicing_by_the_slice(first, data):
    indices = st.lists(st.integers(-len(first), len(first) - 1), min_size=1, max_size=3)
    second = data.draw(indices)
    cache = whole("both")
    twice = cache.apply_slice_to_batch_dim(first).apply_slice_to_batch_dim(second)
    once = cache.apply_slice_to_batch_dim([first[i] for i in second])
    assert twice.clips_by_row == once.clips_by_row
    assert all(torch.equal(twice[name], once[name]) for name in cache)


def test_a_sliced_cache_numbers_its_clips_anew():
    cache = whole()
    assert cache.clips_by_row == CLIPS
    sliced = cache.apply_slice_to_batch_dim([2, 1, 0])
    assert sliced.clips_by_row == [range(0, 1), range(1, 1), range(1, 3)]


def test_slicing_leaves_the_cache_as_it_was():
    cache = cached(BATCH)
    before = {name: x.clone() for name, x in cache.items()}
    cache.apply_slice_to_batch_dim(0)
    assert cache.has_batch_dim
    assert cache.clips_by_row == CLIPS
    assert all(torch.equal(cache[name], before[name]) for name in before)


@pytest.mark.parametrize("bad", [3, -4, [0, 3], [-4], torch.tensor([True, False])], ids=str)
@pytest.mark.parametrize("which", FILTERS)
def test_rows_that_the_batch_lacks_are_refused(bad, which):
    with pytest.raises(IndexError, match="rows 0 to 2"):
        whole(which).apply_slice_to_batch_dim(bad)


@pytest.mark.parametrize("bad", [(3, 3), torch.zeros(3, dtype=torch.bool), [[0, 1]]], ids=str)
def test_a_slice_that_is_no_choice_of_rows_is_refused(bad):
    with pytest.raises(ValueError, match="rows 0 to 2"):
        whole().apply_slice_to_batch_dim(bad)


def test_a_cache_without_its_batch_dimension_has_no_rows_to_choose():
    cache = cached(PROMPTS["one row of two clips"], remove_batch_dim=True)
    with pytest.raises(ValueError, match="no batch dimension"):
        cache.apply_slice_to_batch_dim(0)


def test_an_activation_of_another_length_is_named():
    cache = cached(BATCH, names_filter=FILTERS["both"])
    cache.cache_dict["blocks.1.hook_resid_post"] = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_post has 2 rows"):
        cache.apply_slice_to_batch_dim(0)


# The batch dimension


@pytest.mark.parametrize("which", FILTERS)
@pytest.mark.parametrize("n_clips", [0, 1, 2])
def test_only_rows_lose_their_axis_and_a_single_clip(n_clips, which):
    prompt = make_prompt(SIZES, Layout([7], [[23, 9][:n_clips]]))
    before = cached(prompt, names_filter=FILTERS[which])
    for cache in (
        cached(prompt, names_filter=FILTERS[which], remove_batch_dim=True),
        cached(prompt, names_filter=FILTERS[which]).remove_batch_dim(),
    ):
        assert not cache.has_batch_dim
        for name, x in cache.items():
            stays = is_by_clip(name) and n_clips != 1
            assert torch.equal(x, before[name] if stays else before[name][0]), name


@pytest.mark.parametrize("layout", ["a row of text between", "one clip in three rows"])
@pytest.mark.parametrize("which", FILTERS)
def test_a_batch_of_several_rows_keeps_its_batch_dimension(layout, which):
    with pytest.raises(ValueError, match="3 rows"):
        cached(PROMPTS[layout], names_filter=FILTERS[which], remove_batch_dim=True)
    with pytest.raises(ValueError, match="3 rows"):
        whole(which, layout).remove_batch_dim()


def test_a_dictionary_of_several_rows_keeps_its_batch_dimension():
    with pytest.raises(ValueError, match="3 rows"):
        cached(BATCH, remove_batch_dim=True, return_cache_object=False)


def test_a_row_of_bare_tokens_loses_its_batch_dimension():
    cache = cached(torch.tensor([5, 6, 7]), remove_batch_dim=True)
    assert cache["resid_pre", 0].shape == (3, SIZES.d_model)


# Where the prompt comes from


@pytest.mark.parametrize("which", FILTERS)
def test_tokens_over_a_prompt_listened_to_keep_their_clips(which):
    with MODEL.listening_to(BATCH):
        cache = cached(BATCH.tokens, names_filter=FILTERS[which])
    for row in range(3):
        one = cache.apply_slice_to_batch_dim([row])
        assert_is_the_row_alone(one, row, which)


def test_text_alone_is_by_row():
    tokens = torch.randint(4, SIZES.d_vocab, (3, 6))
    cache = cached(tokens).apply_slice_to_batch_dim(1)
    torch.testing.assert_close(cache["z", 1], cached(tokens[[1]])["z", 1][0], atol=1e-5, rtol=0)


def test_from_a_residual_stream_on_there_are_no_clips():
    resid = whole()["resid_pre", 1]
    with MODEL.listening_to(BATCH):
        cache = cached(resid, start_at_layer=1)
    assert torch.equal(cache.apply_slice_to_batch_dim(2)["resid_pre", 1], resid[2])


def test_a_step_over_cached_keys_has_the_rows_of_its_own_tokens():
    """The prompt heard before it, by another sequence, says nothing about it."""
    past = la.KeyValueCache(SIZES.n_layers)
    run(torch.tensor([[5, 6, 7]]), past_kv_cache=past)
    run(BATCH)
    cache = cached(torch.tensor([[8]]), past_kv_cache=past, remove_batch_dim=True)
    assert cache["resid_pre", 0].shape == (1, SIZES.d_model)


def test_a_failed_forward_leaves_no_clips_to_the_next():
    with pytest.raises(ValueError, match="outside the vocabulary"):
        MODEL(replace(BATCH, tokens=BATCH.tokens + SIZES.d_vocab))
    assert cached(torch.tensor([[5, 6]])).clips_by_row is None


@pytest.mark.parametrize("which", ["everything", "both"])
@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_the_cache_of_a_generation_keeps_the_clips_of_its_rows(use_past_kv_cache, which):
    options = {
        "max_new_tokens": 3, "return_type": "tokens", "verbose": False,
        "use_past_kv_cache": use_past_kv_cache,
    }  # fmt: skip
    filtered = {"return_cache": True, "names_filter": FILTERS[which]}
    new, cache = MODEL.generate(BATCH, **options, **filtered)
    for row in range(3):
        ours = alone(BATCH, row)
        told, expected = MODEL.generate(ours, **options, **filtered)
        assert torch.equal(told, new[[row]])
        sliced = cache.apply_slice_to_batch_dim([row])
        assert sliced.clips_by_row in ([range(len(CLIPS[row]))], expected.clips_by_row)
        for name, x in expected.items():
            found = sliced[name]
            if name == "hook_audio_embed":
                found = found[:, : x.shape[1]]
            elif not is_by_clip(name):  # the last positions: padding is on the left
                last = tuple(slice(-n, None) for n in x.shape[1:])
                found = found[(slice(None), *last)]
            torch.testing.assert_close(found, x, atol=2e-5, rtol=0)


@pytest.mark.parametrize("layout", ["one row of two clips", "two clips in every row"])
def test_gradients_stay_with_their_rows_and_clips(layout):
    prompt, row = PROMPTS[layout], 0
    names = ["audio_encoder.hook_out", "blocks.1.hook_resid_post"]
    options = {"return_type": "loss", "incl_bwd": True, "names_filter": names}
    cache = MODEL.run_with_cache(prompt, **options)[1]
    clips = list(prompt.clips_of(row))
    sliced = cache.apply_slice_to_batch_dim(row)
    for name, places in zip(names, (clips, row), strict=True):
        assert bool(cache[f"{name}_grad"].any())
        assert torch.equal(sliced[f"{name}_grad"], cache[f"{name}_grad"][places])


def test_clips_that_lie_across_rows_are_refused():
    """As many audio tokens as the clips make, but shared out otherwise."""
    tokens = torch.full((2, 8), AUDIO_TOKEN)
    tokens[0, 3:], tokens[1, 9 - 4 :] = 9, 9
    prompt = replace(
        make_prompt(SIZES, Layout([3, 3], [[16], [16]])),
        tokens=tokens,
        attention_mask=torch.ones_like(tokens, dtype=torch.bool),
        audio_mask=tokens == AUDIO_TOKEN,
    )
    with pytest.raises(ValueError, match="Row 0 holds 3 audio tokens"):
        run(prompt)


# The encoder alone


@pytest.mark.parametrize("names_filter", [None, "hook_out", ["hook_out", "blocks.0.hook_mlp_out"]])
def test_the_rows_of_an_encoder_alone_are_clips(names_filter):
    encoder = MODEL.audio_encoder
    with torch.no_grad():
        _, cache = encoder.run_with_cache(BATCH.mel, BATCH.mel_lengths, names_filter=names_filter)
    sliced = cache.apply_slice_to_batch_dim(1)
    torch.testing.assert_close(sliced["hook_out"], whole()["audio_encoder.hook_out"][1])
    with pytest.raises(ValueError, match="3 rows"):
        cache.remove_batch_dim()


def test_the_names_in_an_encoders_cache_are_those_of_its_hooks():
    with torch.no_grad():
        _, cache = MODEL.audio_encoder.run_with_cache(BATCH.mel, BATCH.mel_lengths)
    assert set(cache) <= set(MODEL.audio_encoder.hook_dict)


# What TransformerLens computes from a cache


# Whose rows are not as many as the clips, so that neither can be taken for the other.
UNEVEN = [
    (layout, row)
    for layout, row in ROWS
    if layout not in ("one row of text", "a row of text between")
]


@pytest.mark.parametrize(("layout", "row"), UNEVEN)
def test_the_logit_of_a_sliced_row_is_its_own(layout, row):
    logits, cache = ran(layout)
    one = cache.apply_slice_to_batch_dim(row)
    found = one.logit_attrs(one.decompose_resid(), 11, has_batch_dim=False).sum(0)
    real = PROMPTS[layout].attention_mask[row]
    torch.testing.assert_close(found[real], logits[row, real, 11], atol=1e-4, rtol=0)


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("layout", ["two clips in every row", "one clip in three rows"])
def test_logit_attributions_of_a_row_among_sliced_rows_are_its_own(layout, as_list):
    logits, cache = ran(layout)
    some = cache.apply_slice_to_batch_dim([2, 0])
    position = int(PROMPTS[layout].attention_mask[0].nonzero()[-1])
    parts = some.decompose_resid(pos_slice=position)
    chosen = [1] if as_list else 1
    found = some.logit_attrs(parts, 11, pos_slice=position, batch_slice=chosen).sum(0)
    expected = logits[[0], position, 11] if as_list else logits[0, position, 11]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


STACKS = {
    "accumulated_resid": lambda c: c.accumulated_resid(apply_ln=True, incl_mid=True),
    "decompose_resid": lambda c: c.decompose_resid(apply_ln=True),
    "stack_head_results": lambda c: c.stack_head_results(apply_ln=True, incl_remainder=True),
    "stack_neuron_results": lambda c: c.stack_neuron_results(1, apply_ln=True),
    "get_full_resid_decomposition": lambda c: c.get_full_resid_decomposition(apply_ln=True),
    "stack_activation": lambda c: c.stack_activation("z"),
    "logit_lens": lambda c: c.logit_lens(positions=None).values,
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("layout", ["two clips in every row", "one clip in three rows"])
def test_what_is_stacked_from_a_sliced_row_is_the_row_alone(layout, stack):
    real = PROMPTS[layout].attention_mask[1]
    found = STACKS[stack](whole(layout=layout).apply_slice_to_batch_dim(1))[:, real]
    expected = STACKS[stack](ran_alone(layout, 1))[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("read", ["logit_attrs", "apply_ln_to_stack", "logit_lens"])
def test_rows_are_not_chosen_from_a_cache_that_has_lost_them(read):
    cache = whole().apply_slice_to_batch_dim(0)
    parts = cache.decompose_resid()
    call = {
        "logit_attrs": lambda: cache.logit_attrs(parts, 11, batch_slice=0),
        "apply_ln_to_stack": lambda: cache.apply_ln_to_stack(parts, batch_slice=0),
        "logit_lens": lambda: cache.logit_lens(batch_slice=1),
    }[read]
    with pytest.raises(ValueError, match="no batch dimension"):
        call()


@pytest.mark.parametrize("read", ["logit_attrs", "logit_lens"])
def test_rows_that_the_batch_lacks_are_not_read(read):
    cache = whole()
    with pytest.raises(IndexError, match="rows 0 to 2"):
        if read == "logit_attrs":
            cache.logit_attrs(cache.decompose_resid(), 11, batch_slice=[0, 3])
        else:
            cache.logit_lens(batch_slice=3)


# The class


def test_it_is_transformer_lenss_class_and_moves():
    cache = cached(BATCH)
    assert isinstance(cache, transformer_lens.ActivationCache)
    assert isinstance(cache, la.ActivationCache)
    moved = cache.to("cpu")
    assert moved.clips_by_row == CLIPS
    assert list(moved) == list(cache.keys())


def test_one_made_by_hand_is_told_its_clips():
    plain = cached(BATCH, return_cache_object=False, names_filter="hook_audio_embed")
    with pytest.raises(ValueError, match="clips_by_row"):
        la.ActivationCache(plain, MODEL).apply_slice_to_batch_dim(0)
    clips = [BATCH.clips_of(row) for row in range(3)]
    cache = la.ActivationCache(plain, MODEL, clips_by_row=clips).apply_slice_to_batch_dim(0)
    assert torch.equal(cache["hook_audio_embed"], plain["hook_audio_embed"][:2])
