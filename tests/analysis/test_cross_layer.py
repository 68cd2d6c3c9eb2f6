"""Back-patching and patchscopes against plain hooks over a cached run; what they refuse."""

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

import lens_audio as la
from lens_audio.analysis import back_patch, metrics, patchscope

SIZES = Sizes(n_layers=3)
MODEL = hooked_model(SIZES)
BATCH = make_prompt(SIZES, Layout([6, 9], [[31], [31]]), 0)
PROMPT = make_prompt(SIZES, Layout([6], [[31]]), 0)
TARGET = make_prompt(SIZES, Layout([8], [[]]), 3)
LOGIT_DIFF = metrics.logit_diff(5, 7)
D = SIZES.d_model
with torch.no_grad():
    _, CACHE = MODEL.run_with_cache(BATCH)
    _, OWN = MODEL.run_with_cache(PROMPT)


def put_in(prompt, name, positions, values):
    """The logits of a prompt with values at some positions of an activation, by a plain hook."""

    def function(activation, hook):
        activation[:, positions] = values
        return activation

    with torch.no_grad():
        return MODEL.run_with_hooks(prompt, fwd_hooks=[(name, function)])


@pytest.mark.parametrize(
    ("site", "positions"), [("resid_post", "last"), ("resid_pre", [3, -2]), ("mlp_out", [-1])]
)
def test_cells_are_the_activation_of_one_layer_at_another(site, positions):
    found = back_patch(MODEL, BATCH, LOGIT_DIFF, site=site, positions=positions, verbose=False)
    assert list(found.axes) == ["metric", "source layer", "target layer", "example"]
    where = [-1] if positions == "last" else positions
    for source in range(3):
        for target in range(3):
            values = CACHE[f"blocks.{source}.hook_{site}"][:, where]
            logits = put_in(BATCH, f"blocks.{target}.hook_{site}", where, values)
            cell = found.values[0, source, target]
            torch.testing.assert_close(cell, LOGIT_DIFF(logits[:, -1]), atol=1e-4, rtol=0)


def test_cells_of_the_encoder_are_the_activation_of_one_layer_at_another():
    site = "audio_encoder.resid_post"
    found = back_patch(MODEL, BATCH, LOGIT_DIFF, site=site, positions=[3, 4], verbose=False)
    name = "audio_encoder.blocks.{}.hook_resid_post"
    logits = put_in(BATCH, name.format(0), [3, 4], CACHE[name.format(1)][:, [3, 4]])
    torch.testing.assert_close(found.values[0, 1, 0], LOGIT_DIFF(logits[:, -1]), atol=1e-4, rtol=0)


def test_a_layer_put_in_at_itself_changes_nothing():
    found = back_patch(MODEL, BATCH, LOGIT_DIFF, positions="all", verbose=False)
    diagonal = found.values[0].diagonal(dim1=0, dim2=1)
    torch.testing.assert_close(diagonal, found.base[0, :, None].expand(-1, 3), atol=1e-4, rtol=0)
    assert (found.values[0, 2, 0] - found.base[0]).abs().min() > 1e-3


def test_chosen_layers_and_several_selections_are_axes():
    options = {"source_layers": [-1], "target_layers": [1, 0], "verbose": False}
    some = {"audio": "audio", "last": "last"}
    found = back_patch(MODEL, PROMPT, LOGIT_DIFF, positions=some, **options)
    assert found.axes["source layer"] == ["2"]
    assert found.axes["target layer"] == ["1", "0"]
    assert found.axes["group"] == ["audio", "last"]
    last = back_patch(MODEL, PROMPT, LOGIT_DIFF, **options)
    torch.testing.assert_close(found.values[:, :, :, 1], last.values, atol=1e-5, rtol=0)


def test_the_result_is_a_table_and_a_map_of_layers():
    found = back_patch(MODEL, PROMPT, LOGIT_DIFF, verbose=False)
    table = found.to_dataframe()
    assert table[["source layer", "target layer"]].to_numpy().tolist() == [
        [source, target] for source in range(3) for target in range(3)
    ]
    assert table["recovery"].isna().all()
    figure = found.plot()
    assert figure.layout.xaxis.title.text == "target layer"
    assert figure.layout.yaxis.title.text == "source layer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_layers": 3}, "layer 3 does not exist.*layers 0 to 2"),
        ({"target_layers": [-4]}, "layer -4 does not exist"),
        ({"positions": 99}, "position 99 does not exist"),
        ({"site": "embed"}, "one hook point"),
        ({"site": "blocks.0.hook_resid_post"}, "one hook point"),
        ({"prompt": make_prompt(SIZES, Layout([3, 9], [[], []], "right"))}, "pad on the left"),
    ],
)
def test_back_patching_refuses(changes, message):
    arguments = {"prompt": PROMPT, "metric": LOGIT_DIFF, "verbose": False} | changes
    with pytest.raises(ValueError, match=message):
        back_patch(MODEL, **arguments)


@pytest.mark.parametrize("target_layer", [None, 0])
def test_a_patchscope_reads_the_next_token_of_the_patched_target(target_layer):
    found = patchscope(
        MODEL, PROMPT, TARGET, 4, positions=PROMPT.audio_positions(0)[:3], layers=[0, 2],
        target_layer=target_layer, read="next", k=SIZES.d_vocab, batch_size=2,
    )  # fmt: skip
    places = PROMPT.audio_positions(0)[:3].tolist()
    assert len(found) == 2 * len(places) * SIZES.d_vocab
    for (layer, place), rows in found.groupby(["source layer", "position"]):
        at = layer if target_layer is None else target_layer
        assert set(rows["target layer"]) == {at}
        vector = OWN["resid_post", layer][0, place]
        expected = put_in(TARGET, f"blocks.{at}.hook_resid_post", 4, vector)[0, -1].softmax(-1)
        by_token = torch.tensor(rows.sort_values("token id")["probability"].to_numpy())
        torch.testing.assert_close(by_token.float(), expected, atol=1e-5, rtol=0)
        assert rows["probability"].is_monotonic_decreasing
        seconds = PROMPT.time_of(0, place)[0]
        assert set(rows["seconds"]) == {seconds}


def test_vectors_are_put_in_as_they_are():
    vectors = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    found = patchscope(MODEL, vectors, TARGET, -1, target_layer=-2, read="next", k=1)
    assert list(found["vector"]) == [0, 1, 2]
    for number, vector in enumerate(vectors):
        best = put_in(TARGET, "blocks.1.hook_resid_post", -1, vector)[0, -1].softmax(-1).max(0)
        assert found["token id"][number] == int(best.indices)
        assert found["probability"][number] == pytest.approx(float(best.values), abs=1e-5)
    one = patchscope(MODEL, vectors[1], TARGET, -1, target_layer=-2, read="next", k=1)
    assert "vector" not in one
    assert one["token id"][0] == found["token id"][1]


def test_the_target_may_hold_audio():
    found = patchscope(MODEL, PROMPT, PROMPT, 1, layers=1, positions=[0, 2], read="next", k=1)
    for row in found.itertuples():
        vector = OWN["resid_post", 1][0, row.position]
        expected = put_in(PROMPT, "blocks.1.hook_resid_post", 1, vector)[0, -1].softmax(-1).max()
        assert row.probability == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "layer 3 does not exist"),
        ({"target_layer": 3}, "layer 3 does not exist"),
        ({"positions": 99}, "position 99 does not exist"),
        ({"placeholder": 99}, "position 99 does not exist"),
        ({"source": BATCH}, "source has 2 rows"),
        ({"target_prompt": BATCH}, "target_prompt has 2 rows"),
        ({"source": torch.ones(D)}, "say by target_layer="),
        ({"source": torch.ones(D), "target_layer": 0, "layers": 1}, "leave out layers="),
        ({"source": torch.ones(D + 1), "target_layer": 0}, rf"give \[{D}\] or \[n, {D}\]"),
        ({"source": torch.ones(D) * torch.nan, "target_layer": 0}, "NaN"),
        ({"site": "z"}, "not of the width"),
        ({"site": "audio_encoder.resid_post"}, "not of the width"),
        ({"read": "mind"}, "read must be 'text' or 'next'"),
        ({"read": "next", "k": 0}, "k must be from 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"placeholder": "x"}, "no tokenizer"),
    ],
)
def test_patchscopes_refuse(changes, message):
    arguments = {"source": PROMPT, "target_prompt": TARGET, "placeholder": 2} | changes
    with pytest.raises(ValueError, match=message):
        patchscope(MODEL, **arguments)
    assert not any(point.has_hooks() for point in MODEL.hook_points())


def test_a_model_with_hooks_is_refused():
    with MODEL.hooks([("hook_embed", lambda x, hook: x)]):
        with pytest.raises(ValueError, match="hooks are set"):
            back_patch(MODEL, PROMPT, LOGIT_DIFF)
        with pytest.raises(ValueError, match="hooks are set"):
            patchscope(MODEL, PROMPT, TARGET, 2)


@pytest.fixture(scope="module")
def embedded():
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), verbose=False)


@pytest.fixture(scope="module")
def demo(embedded):
    item = la.testbed.demo_item()
    return embedded.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)


def test_a_patchscope_generates_what_the_patched_target_does(embedded, demo):
    target = "wind ; rain ; bell"
    words = embedded.to_str_tokens(target)
    place = next(i for i, word in enumerate(words) if word.strip() == "rain")
    places = demo.audio_positions(0)[[0, 9]].tolist()
    found = patchscope(
        embedded, demo, target, "rain", layers=[1], positions=places, max_new_tokens=3
    )
    assert list(found["source token"]) == ["<|AUDIO|>"] * 2
    _, cache = embedded.run_with_cache(demo)
    for row in found.itertuples():

        def function(activation, hook, position=row.position):
            if activation.shape[1] > 1:  # the prompt, not a generated token
                activation[:, place] = cache["resid_post", 1][0, position]

        with embedded.hooks([("blocks.1.hook_resid_post", function)]):
            tokens = embedded.generate(
                embedded.to_tokens(target), 3, return_type="tokens", verbose=False
            )
        new = tokens[0, len(words) :]
        assert row.text == embedded.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("wind ; rain ; bell", "'x' is no token of the target prompt"),
        ("x ; x", r"'x' occurs at positions \[0, \d\]"),
    ],
)
def test_a_placeholder_must_occur_once(embedded, demo, target, message):
    with pytest.raises(ValueError, match=message):
        patchscope(embedded, demo, target)
