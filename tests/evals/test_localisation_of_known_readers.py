"""On small samples, what the score card shows of the embedded checkpoints in full."""

import pytest

import lens_audio as la
from lens_audio.evals.localisation import METHODS
from lens_audio.testbed import KNOWN, checkpoint_dir, make_scene_pairs, truth


def ranked_first(name: str, method: str) -> set[tuple[int, int]]:
    """As many heads as there are readers, by the method's mean over a few pairs."""
    model = la.HookedAudioTransformer.from_pretrained(checkpoint_dir(name), verbose=False)
    pairs = make_scene_pairs(24, 84)
    scores = METHODS[method].function(model, pairs).mean(0)
    return {*la.analysis.top_heads(scores, len(truth(name).readers))}


@pytest.mark.parametrize("name", KNOWN)
def test_knock_out_ranks_the_true_readers_first(name: str) -> None:
    assert ranked_first(name, "knock-out") == {*truth(name).readers}


def test_mean_mass_finds_decoys_where_they_were_planted() -> None:
    found = ranked_first("planted", "mean mass")
    assert not found & {*truth("planted").readers}
    assert found <= {*truth("planted").decoys}
