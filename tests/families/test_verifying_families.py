"""`lens-audio verify` of every family: it agrees, and finds what was changed."""

import pytest
import torch
from family_models import FAMILY_CASES

from lens_audio.verification import verify

families = pytest.mark.parametrize("family", FAMILY_CASES, ids=lambda family: family.name)


@pytest.fixture
def folder(family, tmp_path):
    hf = family.build(family.sizes(1), 1)
    hf.save_pretrained(tmp_path / "right")
    with torch.no_grad():
        layer = hf.model.audio_tower.layers[0]
        getattr(layer, "mlp", layer).fc2.weight.mul_(1.5)
    hf.save_pretrained(tmp_path / "wrong")
    return tmp_path


@families
def test_it_agrees(folder, family):
    found = verify(folder / "right", "cpu", n_tokens=3)
    assert found.first is None, found.first
    names = {case.name for case in found.cases}
    assert "a full window" in names
    assert ("a long clip" in names) == (family.in_windows or family.any_length)


@families
def test_a_changed_weight_is_found_where_it_acts(folder, family):
    found = verify(folder / "right", "cpu", against=folder / "wrong", n_tokens=3, quick=True)
    assert found.first == ("one clip", "audio_encoder.blocks.0.hook_resid_post")
