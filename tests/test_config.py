"""What follows from an encoder's sizes: its frames and tokens of a clip, and when they are."""

import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import lens_audio as la
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, AudioTiming
from lens_audio.fingerprint import of_model
from lens_audio.model import HookedAudioTransformer

# One token for 4 x 3 mel frames of 10 ms; 48 mel frames fill the encoder.
OTHER = {"conv_stride": 4, "pool": 3}
TIMINGS = st.builds(AudioTiming, conv_stride=st.integers(1, 8), pool=st.integers(1, 4))


def model(seed=0, **timing):
    audio = AudioEncoderConfig(
        d_model=12, d_head=6, n_heads=2, n_layers=1, n_ctx=12, d_mlp=20, n_mels=5, **timing
    )
    cfg = AudioModelConfig(
        d_model=16, d_head=8, n_heads=2, n_layers=1, n_ctx=64, d_mlp=20, d_vocab=30, audio=audio,
        audio_token_id=3,
    )  # fmt: skip
    torch.manual_seed(seed)
    made = HookedAudioTransformer(cfg)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def prompt_of(cfg, *mel_lengths):
    """A row for each clip, which holds one audio token, to be expanded."""
    n = len(mel_lengths)
    mel = torch.randn(n, cfg.audio.n_mels, cfg.audio.max_mel_frames)
    tokens = torch.tensor([[5, 3, 6]] * n)
    return la.AudioPrompt.from_tensors(
        tokens, mel, torch.tensor(mel_lengths), audio_token_id=3, cfg=cfg
    )


@given(TIMINGS, st.integers(1, 300))
def test_frames_and_tokens_are_as_many_as_a_convolution_and_a_pool_make(timing, n):
    mel = torch.zeros(1, 1, n)
    frames = F.conv1d(mel, torch.zeros(1, 1, 3), stride=timing.conv_stride, padding=1)
    assert timing.n_frames(n) == frames.shape[2]
    padded = F.pad(frames, (0, timing.pool))  # torch pools no empty output
    assert timing.n_tokens(n) == F.avg_pool1d(padded, timing.pool).shape[2] - 1
    assert timing.n_tokens(torch.tensor([n])).tolist() == [timing.n_tokens(n)]


@given(TIMINGS)
def test_the_shortest_clip_makes_one_token_and_a_shorter_one_none(timing):
    shortest = timing.min_mel_frames
    assert (timing.n_tokens(shortest), timing.n_tokens(shortest - 1)) == (1, 0)


@given(TIMINGS, st.integers(1, 40))
def test_the_frames_of_all_tokens_are_all_frames_in_order(timing, n_tokens):
    tokens = torch.arange(n_tokens)
    frames = timing.frames_of(tokens)
    assert frames.tolist() == list(range(n_tokens * timing.pool))
    assert torch.equal(timing.tokens_of(frames), tokens.repeat_interleave(timing.pool))


@given(TIMINGS, st.integers(1, 300))
def test_a_token_begins_where_its_first_frame_does(timing, n):
    starts = timing.frame_starts(timing.n_frames(n), hop_length=80, sampling_rate=8000)
    spans = timing.token_spans(timing.n_tokens(n), n / 100, hop_length=80, sampling_rate=8000)
    first = starts[: len(spans) * timing.pool : timing.pool]
    torch.testing.assert_close(spans[:, 0], first, rtol=0, atol=1e-12)


def test_a_prompt_has_the_times_of_its_model():
    prompt = prompt_of(model(**OTHER).cfg, 48, 31)
    assert [len(prompt.audio_positions(row)) for row in range(2)] == [4, 2]
    assert prompt.audio_times(1).tolist() == [[0, 0.12], [0.12, 0.31]]
    assert prompt.positions_between(0, 0.1, 0.13).tolist() == [1, 2]
    assert prompt.audio_windows(0, 0.24).tolist() == [0, 0, 1, 1]
    assert prompt.frame_labels()[:3] == ["0.00 s", "0.04 s", "0.08 s"]
    with pytest.raises(ValueError, match=r"shorter than an audio token of 0\.12 s"):
        prompt.audio_windows(0, 0.1)


def test_a_clip_that_makes_no_token_of_its_model_is_refused():
    with pytest.raises(ValueError, match="at least 9 mel frames"):
        prompt_of(model(**OTHER).cfg, 48, 8)


def test_a_model_of_another_stride_and_pool_hears_a_clip_alone_as_in_a_batch():
    made = model(**OTHER)
    prompt = prompt_of(made.cfg, 47, 20)
    _, cache = made.run_with_cache(prompt)
    assert cache["audio_encoder.hook_conv2"].shape == (2, 12, 12)
    assert cache["hook_audio_embed"].shape == (2, 4, 16)
    for row, (mel, n) in enumerate(zip(prompt.mel, (4, 1), strict=True)):
        alone = made.embed_audio(mel[None], prompt.mel_lengths[row : row + 1])
        torch.testing.assert_close(alone[0], cache["hook_audio_embed"][row, :n])


@pytest.mark.parametrize(
    "carried",
    [
        lambda prompt: prompt.to("cpu"),
        lambda prompt: replace(prompt, tokenizer=None),
        lambda prompt: pickle.loads(pickle.dumps(prompt)),
    ],
    ids=["to", "replace", "pickle"],
)
def test_a_prompt_keeps_its_timing(carried):
    prompt = prompt_of(model(**OTHER).cfg, 31)
    assert carried(prompt).timing == AudioTiming(**OTHER)
    assert torch.equal(carried(prompt).audio_times(0), prompt.audio_times(0))


def test_timing_is_part_of_what_a_model_is():
    configs = [of_model(model(**timing))["config"] for timing in ({}, OTHER)]
    assert configs[0] != configs[1]


def test_a_config_is_fingerprinted_as_before_it_had_timing():
    before = model()
    for name in ("conv_stride", "pool"):
        del vars(before.cfg.audio)[name]
    assert of_model(before) == of_model(model())
