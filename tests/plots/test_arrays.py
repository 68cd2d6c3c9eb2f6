"""Every figure of numbers draws the same from a tensor, an array, and pandas where it is natural."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from models import make_prompt

from lens_audio import plots
from lens_audio.plots.arrays import as_array
from lens_audio.plots.report import audio_html


class Words:
    """A tokenizer that only decodes."""

    def decode(self, ids: list[int]) -> str:
        return str(ids[0])


PROMPT = replace(make_prompt(), tokenizer=Words())
N_POSITIONS, N_AUDIO = PROMPT.tokens.shape[1], len(PROMPT.audio_positions(0))
EDGES = pd.DataFrame(
    {"sender": [(0, 1)], "receiver": ["logits"], "input": ["resid"], "recovery": [0.5]}
)
MAP, ROWS = torch.rand(2, 3), torch.rand(1, N_AUDIO)
PATTERN, LENS = torch.rand(N_POSITIONS, N_POSITIONS), torch.rand(3, 2, 5).log_softmax(-1)
VECTOR = torch.tensor([0.25, 0.5, 0.25])

FIGURES: dict[str, tuple[torch.Tensor, Callable[[Any], go.Figure]]] = {
    "head_map": (MAP, plots.head_map),
    "attribution_by_source": (
        MAP,
        lambda x: plots.attribution_by_source({"audio": x, "text": x}),
    ),
    "circuit_graph": (MAP, lambda x: plots.circuit_graph(EDGES, x)),
    "attention_over_time": (ROWS, lambda x: plots.attention_over_time(PROMPT, x, [(0, 0)])),
    "token_attention": (PATTERN, lambda x: plots.token_attention(x, PROMPT)),
    "logit_lens_table": (LENS, lambda x: plots.logit_lens_table(x, str)),
    "score_distributions": (VECTOR, lambda x: plots.score_distributions({"all": x})),
    "choice_probabilities": (VECTOR, lambda x: plots.choice_probabilities(list("abc"), x, x)),
    "answer_probabilities": (VECTOR, lambda x: plots.answer_probabilities(list("abc"), {"a": x})),
}


def of_pandas(values: torch.Tensor) -> pd.DataFrame | pd.Series:
    """With another index than positions, which must not matter."""
    if values.ndim == 1:
        return pd.Series(values.numpy(), index=range(10, 10 + len(values)))
    return pd.DataFrame(values.numpy(), columns=[f"c{i}" for i in range(values.shape[1])])


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_draws_what_the_tensor_draws(name: str, dtype: type) -> None:
    values, draw = FIGURES[name]
    assert draw(values.numpy().astype(dtype)).to_json() == draw(values).to_json()


@pytest.mark.parametrize("name", [name for name, (x, _) in FIGURES.items() if x.ndim < 3])
def test_pandas_draws_what_the_tensor_draws(name: str) -> None:
    values, draw = FIGURES[name]
    assert draw(of_pandas(values)).to_json() == draw(values).to_json()


@pytest.mark.parametrize("name", FIGURES)
def test_what_autograd_follows_and_bfloat16_are_drawn(name: str) -> None:
    values, draw = FIGURES[name]
    assert draw(values.bfloat16().requires_grad_()).to_json()


def test_counts_are_drawn_too() -> None:
    np.testing.assert_array_equal(plots.head_map(np.array([[1, 2]])).data[0].z, [[1, 2]])
    np.testing.assert_array_equal(plots.head_map(torch.tensor([[1, 2]])).data[0].z, [[1, 2]])


def test_numpy_that_is_edited_later_leaves_the_figure_as_it_was() -> None:
    values = np.ones((1, 2), dtype=np.float32)
    figure = plots.head_map(values)
    values[:] = 0
    np.testing.assert_array_equal(figure.data[0].z, [[1, 1]])


def test_missing_numbers_of_pandas_are_blank() -> None:
    table = pd.DataFrame({"h0": pd.array([1, None], dtype="Int64"), "h1": [0.5, 0.25]})
    np.testing.assert_array_equal(plots.head_map(table).data[0].z, [[1, 0.5], [np.nan, 0.25]])


@pytest.mark.parametrize(
    ("values", "message"),
    [([1.0, 2.0], r"shape \[2\]; give \[layer, head\]"), ([["a"]], "holds no numbers")],
)
def test_other_numbers_are_refused_with_what_to_give(values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_array(values, "layer", "head")


def test_a_player_takes_a_tensor() -> None:
    wave = torch.linspace(-1, 1, 100)
    assert audio_html(wave, 16000) == audio_html(wave.numpy(), 16000)
