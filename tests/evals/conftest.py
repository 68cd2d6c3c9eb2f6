"""The embedded model, and a few items of the testbed."""

import pytest
import torch

import lens_audio as la
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.protocol import Settings

torch.set_num_threads(1)  # processes are forked and compared here


@pytest.fixture(scope="session")
def model():
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")


@pytest.fixture(scope="session")
def dataset():
    return SyntheticQA.make(7)


@pytest.fixture(scope="session")
def settings():
    """A run of every kind in a few seconds."""
    return Settings(
        wording=wording("plain"), ks=(2, 4), betas=(1.0, 4.0), draws=1, batch_size=6,
        max_new_tokens=4, n_permutations=50,
    )  # fmt: skip
