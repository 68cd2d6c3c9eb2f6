"""Nearest tokens against products by hand."""

import pytest
import torch
import torch.nn.functional as F
from models import Sizes, hooked_model

import lens_audio as la
from lens_audio.analysis import nearest_tokens, vocabulary

SIZES = Sizes()
MODEL = hooked_model(SIZES)
VECTORS = torch.randn(2, SIZES.d_model, generator=torch.Generator().manual_seed(0))


def rows_of(by):
    return MODEL.W_E if by == "embed" else MODEL.W_U.T


@pytest.mark.parametrize("rows_at_once", [7, 16384])
@pytest.mark.parametrize("measure", ["cosine", "dot product"])
@pytest.mark.parametrize("by", ["embed", "unembed"])
def test_the_nearest_have_the_largest_products(monkeypatch, by, measure, rows_at_once):
    monkeypatch.setattr(vocabulary, "ROWS_AT_ONCE", rows_at_once)
    found = nearest_tokens(MODEL, VECTORS, k=4, by=by, measure=measure)
    assert list(found.columns) == ["vector", "rank", "token id", measure]
    for number, vector in enumerate(VECTORS):
        if measure == "cosine":
            scores = F.cosine_similarity(vector[None], rows_of(by), dim=1)
        else:
            scores = rows_of(by) @ vector
        best, some = scores.topk(4), found[found["vector"] == number]
        assert list(some["token id"]) == best.indices.tolist()
        assert list(some["rank"]) == [1, 2, 3, 4]
        assert some[measure].to_numpy() == pytest.approx(best.values.detach().numpy(), abs=1e-5)


def test_a_token_is_nearest_to_its_own_vector():
    found = nearest_tokens(MODEL, 3 * MODEL.W_E[17].detach(), k=1, by="embed")
    assert list(found.columns) == ["rank", "token id", "cosine"]
    assert found["token id"][0] == 17
    assert found["cosine"][0] == pytest.approx(1.0, abs=1e-6)


def test_special_tokens_are_left_out_unless_asked_for():
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), verbose=False)
    audio = model.W_E[model.cfg.audio_token_id].detach()
    asked = nearest_tokens(model, audio, k=1, by="embed", special_tokens=True)
    assert asked["token"][0] == "<|AUDIO|>"
    names = nearest_tokens(model, audio, k=30, by="embed")["token"]
    assert not set(names) & set(model.tokenizer.all_special_tokens)
    assert "<|AUDIO|>" not in set(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "logits"}, "by='unembed' or 'embed'"),
        ({"measure": "distance"}, "'cosine' or 'dot product'"),
        ({"k": 61}, "from 1 to the 60 tokens"),
        ({"k": 0}, "not 0"),
        ({"vector": torch.ones(5)}, "give"),
        ({"vector": torch.ones(1, 1, SIZES.d_model)}, "give"),
        ({"vector": torch.full((SIZES.d_model,), torch.inf)}, "infinite"),
        ({"vector": torch.zeros(SIZES.d_model)}, "no direction"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        nearest_tokens(MODEL, **({"vector": VECTORS} | changes))


def test_zeros_have_products():
    zeros = torch.zeros(SIZES.d_model)
    assert not nearest_tokens(MODEL, zeros, measure="dot product")["dot product"].any()
