"""An edit of a weight under TransformerLens's name takes effect, or is refused with the way out."""

import re

import pytest
import torch
import torch.nn as nn
from models import Sizes, hooked_model

GROUPED = Sizes()  # two key heads for four query heads
PLAIN = Sizes(kv_heads=4)
TOKENS = torch.tensor([[5, 6, 7, 8]])


WEIGHTS = [
    *(f"blocks[1].attn.{kind}_{part}" for kind in "Wb" for part in "QKVO"),
    *(f"blocks[1].mlp.{name}" for name in ("W_in", "W_out", "W_gate", "b_in", "b_out")),
    "unembed.W_U",
    "unembed.b_U",
]


def split(path):
    holder, _, name = path.rpartition(".")
    return f"model.{holder}", name


def logits(model):
    with torch.no_grad():
        return model(TOKENS)


EDITS = {
    "an item of .data": "model.{path}.data[0] = 0.5",
    ".data in place": "model.{path}.data += 0.5",
    "an item": "with torch.no_grad(): model.{path}[0] = 0.5",
    "in place": "with torch.no_grad(): model.{path} += 0.5",
    "a method": "with torch.no_grad(): model.{path}.fill_(0.5)",
    "a view": "with torch.no_grad(): model.{path}[0:1].zero_(); model.{path}.flatten()[0].add_(0.5)",
    "another .data": "model.{path}.data = torch.full_like(model.{path}, 0.5)",
    "assigned": "model.{path} = torch.full_like(model.{path}, 0.5)",
    "an assigned parameter": "model.{path} = nn.Parameter(torch.full_like(model.{path}, 0.5))",
}


@pytest.mark.parametrize("sizes", [GROUPED, PLAIN], ids=["grouped", "plain"])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("path", WEIGHTS)
def test_an_edit_takes_effect_or_is_refused(path, edit, sizes):
    model = hooked_model(sizes)
    before = logits(model)
    refusal = ""
    try:
        exec(EDITS[edit].format(path=path), {"model": model, "torch": torch, "nn": nn})
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.search("Edit|Assign", refusal)
        return
    found = eval(f"model.{path}", {"model": model})
    assert (found == 0.5).any() or "+=" in EDITS[edit] or edit == "a view"
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("path", WEIGHTS)
def test_what_is_assigned_is_shown(path):
    model = hooked_model(PLAIN)
    holder, name = split(path)
    holder = eval(holder, {"model": model})
    new = torch.randn_like(getattr(holder, name))
    setattr(holder, name, nn.Parameter(new))
    assert torch.equal(getattr(holder, name), new)


def test_a_bias_that_is_assigned_is_added():
    model = hooked_model(GROUPED)
    before = logits(model)
    model.unembed.b_U = torch.arange(float(GROUPED.d_vocab))
    torch.testing.assert_close(logits(model), before + torch.arange(float(GROUPED.d_vocab)))


def test_a_stack_of_all_layers_refuses_edits():
    model = hooked_model(GROUPED)
    with pytest.raises(ValueError, match=r"model\.blocks\[layer\]\.attn\.W_Q"):
        model.W_Q[0, 1] = 0.0
    with pytest.raises(ValueError, match=r"model\.blocks\[layer\]\.mlp\.b_out"):
        model.b_out.data += 1


def test_grouped_heads_are_assigned_alike_or_refused():
    model = hooked_model(GROUPED)
    attn = model.blocks[0].attn
    alike = torch.randn(2, *attn.W_K.shape[1:]).repeat_interleave(2, 0)
    attn.W_K = alike
    assert torch.equal(attn.W_K, alike)
    with pytest.raises(ValueError, match="must be equal"):
        attn.W_K = torch.randn_like(alike)


def test_another_shape_is_refused():
    model = hooked_model(PLAIN)
    with pytest.raises(ValueError, match="cannot be assigned"):
        model.blocks[0].mlp.W_in = torch.zeros(3, 3)


def test_what_is_computed_of_a_copy_is_an_ordinary_tensor():
    model = hooked_model(GROUPED)
    stack = model.W_Q * 2
    assert type(stack) is torch.Tensor
    stack[0] = 0.0
    assert type(model.W_Q.clone()) is torch.Tensor
