"""A few rows at once give what torch's linear layer gives, to float error."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from lens_audio.model.linear import Linear

torch.manual_seed(0)


@pytest.mark.parametrize("rows", [(), (1, 1), (2, 1), (1, 3), (4, 1), (2, 4), (5, 1), (3,), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_torchs_in_value_and_gradient(rows, bias):
    layer = Linear(48, 80, bias=bias)
    x = torch.randn(*rows, 48, requires_grad=True)
    weights = torch.randn(*rows, 80)
    expected = F.linear(x.double(), layer.weight.double(), bias_of(layer))
    out = layer(x)
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)
    wanted = (x, *layer.parameters())
    got = torch.autograd.grad((out * weights).sum(), wanted)
    should = torch.autograd.grad((expected * weights).sum(), wanted)
    torch.testing.assert_close(got, should, atol=1e-5, rtol=0)


def bias_of(layer: Linear):
    return None if layer.bias is None else layer.bias.double()


def test_rows_of_one_position_are_multiplied_at_once_where_that_is_the_faster(monkeypatch):
    products = []
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *of: products.append(of[1].shape[1]) or mm(*of))
    for n_rows in (1, 2, 4, 5):
        Linear(4, 4)(torch.randn(n_rows, 1, 4))
    Linear(4, 4)(torch.randn(1, 2, 4))
    Linear(4, 4, dtype=torch.bfloat16)(torch.randn(2, 1, 4, dtype=torch.bfloat16))
    assert products == [2, 4]


def test_a_weight_of_another_class_is_multiplied_its_own_way():
    class Quantised(torch.Tensor):
        """A weight that knows `F.linear` only, as quantised weights do."""

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            assert func is not torch.mm
            return super().__torch_function__(func, types, args, kwargs or {})

    layer = Linear(4, 4, bias=False)
    plain = layer.weight.detach()
    layer.weight = nn.Parameter(plain.as_subclass(Quantised))
    x = torch.randn(2, 1, 4)
    torch.testing.assert_close(torch.Tensor(layer(x)), F.linear(x, plain))
