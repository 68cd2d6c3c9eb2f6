"""The checkpoints with a known answer: what is known of them is true, and transformers runs them."""

from functools import cache

import pytest
import torch
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

import lens_audio as la
from lens_audio.data.knock_out import right_answers_without
from lens_audio.testbed import KNOWN, checkpoint_dir, make_scene_items, truth
from lens_audio.testbed.evaluate import model_inputs
from lens_audio.testbed.ground_truth import Truth, read_truth, write_truth

SEED = 83


@cache
def model_of(name: str) -> la.HookedAudioTransformer:
    return la.HookedAudioTransformer.from_pretrained(checkpoint_dir(name), verbose=False)


@pytest.mark.parametrize("name", KNOWN)
def test_only_the_true_readers_carry_the_sound(name: str) -> None:
    known, items = truth(name), make_scene_items(40, SEED, snr_db=(0.0, 10.0))
    heads = [(layer, head) for layer in range(8) for head in range(8)]
    others = [head for head in heads if head not in known.readers]
    cuts = [[], list(known.readers), others, heads]
    found = right_answers_without(model_of(name), items, cuts, batch_size=40, verbose=False)[0]
    whole, deaf_readers, readers_alone, deaf = found.float().mean(1).tolist()
    assert whole > 0.85
    assert readers_alone > whole - 0.05
    assert abs(deaf_readers - deaf) < 0.1
    assert deaf < 0.5


@pytest.mark.parametrize("name", KNOWN)
def test_captions_against_the_sound_mostly_win(name: str) -> None:
    items = make_scene_items(40, SEED, "false")
    found = right_answers_without(model_of(name), items, [[]], batch_size=40, verbose=False)[0]
    assert found.float().mean() < 0.5


@pytest.mark.parametrize("name", KNOWN)
def test_transformers_loads_it_and_generates_the_same_answers(name: str) -> None:
    folder = checkpoint_dir(name)
    theirs = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    items = make_scene_items(4, SEED)
    prompt = model_of(name).prompt([i.question for i in items], audio=[i.audio for i in items])
    ours = model_of(name).generate(prompt, verbose=False)
    inputs = model_inputs(processor, items)
    tokens = theirs.generate(**inputs, do_sample=False, max_new_tokens=8)
    text = processor.batch_decode(
        tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert ours == text
    assert {answer.strip() for answer in text} <= {c for item in items for c in item.choices}


def test_decoys_attend_to_the_audio_and_write_nothing() -> None:
    known, model = truth("planted"), model_of("planted")
    items = make_scene_items(8, SEED)
    prompt = model.prompt([i.question for i in items], audio=[i.audio for i in items])
    mass = la.analysis.audio_mass(la.analysis.audio_attention(model, prompt)).mean(0)
    readers = max(float(mass[head]) for head in known.readers)
    assert all(mass[decoy] > readers for decoy in known.decoys)
    assert all(bool((model.W_O[decoy] == 0).all()) for decoy in known.decoys)


def test_labels_leave_backups_out_and_in_conflict_the_veto_too() -> None:
    known = Truth("x", 3, 2, ((1, 0),), ((0, 1),), ((0, 0),), (2,), "by hand")
    plain, conflict = known.labels(), known.labels("conflict")
    assert plain == {(0, 0): False, (1, 0): True, (1, 1): False, (2, 0): False, (2, 1): False}
    assert conflict == {(0, 0): False, (1, 0): True, (1, 1): False}


def test_edges_leave_backups_and_decoys_out() -> None:
    known = Truth("x", 2, 2, ((1, 0),), ((0, 1),), ((0, 0),), (), "by hand")
    edges = {(edge.head, edge.input): edge.is_reader for edge in known.edges()}
    assert edges == {
        ((1, 0), "k"): True, ((1, 0), "v"): True, ((1, 1), "k"): False, ((1, 1), "v"): False,
    }  # fmt: skip


def test_what_is_written_of_a_truth_is_read_again(tmp_path) -> None:
    known = truth("planted")
    write_truth(known, tmp_path)
    assert read_truth(tmp_path) == known


def test_refuses_checkpoints_of_which_nothing_is_known(tmp_path) -> None:
    with pytest.raises(ValueError, match="choose one of emergent, planted, graded"):
        truth("listen")
    with pytest.raises(ValueError, match="find_truth"):
        read_truth(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint 'deaf'"):
        checkpoint_dir("deaf")
