"""The listening score at each token of an answer is the mass of the step that chose it."""

import pytest
import torch

import lens_audio as la
from lens_audio import hooks
from lens_audio.analysis import listening_over_answer
from lens_audio.testbed.items import make_items

MODEL = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")
ITEM = make_items(1, 3)[0]
PROMPT = MODEL.prompt(ITEM.question, audio=ITEM.audio)
HEADS = [(1, 0), (1, 3), (3, 2)]
N = 5


def masses_of_patterns(prompt):
    """Each step's whole pattern, its last query's share on the audio: [token, head]."""
    steps = {layer: [] for layer, _ in HEADS}

    def keep(pattern, hook):
        audio = prompt.audio_mask[0]
        steps[hook.layer()].append(pattern[0, :, -1, : len(audio)][:, audio].sum(-1))

    with MODEL.hooks([(f"blocks.{layer}.attn.hook_pattern", keep) for layer in steps]):
        MODEL.generate(prompt, N, stop_at_eos=False, verbose=False)
    return torch.stack([torch.stack(steps[layer])[:, head] for layer, head in HEADS], dim=1)


def test_each_token_has_the_mass_of_the_step_that_chose_it():
    found = listening_over_answer(MODEL, PROMPT, HEADS, N, stop_at_eos=False)
    torch.testing.assert_close(found.mass, masses_of_patterns(PROMPT), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.scores, found.mass.mean(1))
    assert found.text == "".join(t for t in found.tokens if not t.startswith("<|"))
    assert len(found.tokens) == N


def test_hooks_set_on_the_model_act():
    direction = torch.linspace(-3, 3, MODEL.cfg.d_model)
    with MODEL.hooks(hooks.steer(direction, site="resid_post", layer=0, positions="last")):
        found = listening_over_answer(MODEL, PROMPT, HEADS, N, stop_at_eos=False)
        expected = masses_of_patterns(PROMPT)
    torch.testing.assert_close(found.mass, expected, atol=1e-6, rtol=1e-5)
    plain = listening_over_answer(MODEL, PROMPT, HEADS, N, stop_at_eos=False)
    assert not torch.allclose(found.mass, plain.mass, atol=1e-3)


def test_left_padding_changes_nothing():
    longer = MODEL.prompt([ITEM.question, ITEM.question + " Say it."], audio=[ITEM.audio] * 2)
    padded = la.AudioPrompt.from_tensors(
        longer.tokens[:1], longer.mel[:1], longer.mel_lengths[:1], longer.attention_mask[:1],
        longer.audio_mask[:1],
    )  # fmt: skip
    assert not bool(padded.attention_mask.all())
    found = listening_over_answer(MODEL, padded, HEADS, N, stop_at_eos=False)
    alone = listening_over_answer(MODEL, PROMPT, HEADS, N, stop_at_eos=False)
    torch.testing.assert_close(found.mass, alone.mass, atol=1e-5, rtol=1e-4)


def test_the_figure_shows_every_head_and_their_mean():
    found = listening_over_answer(MODEL, PROMPT, HEADS, N, stop_at_eos=False)
    *thin, score = found.plot().data
    assert [line.name for line in thin] == ["L1H0", "L1H3", "L3H2"]
    assert list(score.y) == pytest.approx(found.scores.tolist())
    assert found.to_dataframe()["L3H2"].tolist() == found.mass[:, 2].tolist()


@pytest.mark.parametrize(
    ("prompt", "heads", "said"),
    [
        (MODEL.prompt([ITEM.question] * 2, audio=[ITEM.audio] * 2), HEADS, "not a batch of 2"),
        (MODEL.prompt("What?"), HEADS, "no audio"),
        (PROMPT, [(9, 0)], "9"),
        (PROMPT, [], "no heads"),
    ],
)
def test_what_cannot_be_listened_to_is_refused(prompt, heads, said):
    with pytest.raises(ValueError, match=said):
        listening_over_answer(MODEL, prompt, heads, N)
