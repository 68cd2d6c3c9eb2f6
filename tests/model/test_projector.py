"""The audio projector: its layers, its hooks, and what they change."""

import pytest
import torch
import torch.nn.functional as F
from models import hooked_model, make_prompt

from lens_audio.config import AudioEncoderConfig, AudioModelConfig, ProjectorConfig
from lens_audio.fingerprint import of_model
from lens_audio.model import HookedAudioTransformer


def with_projector(projector):
    audio = AudioEncoderConfig(
        d_model=12, d_head=6, n_heads=2, n_layers=1, n_ctx=12, d_mlp=20, n_mels=5
    )
    cfg = AudioModelConfig(
        d_model=16, d_head=8, n_heads=2, n_layers=1, n_ctx=64, d_mlp=20, d_vocab=30, audio=audio,
        audio_token_id=3, projector=projector,
    )  # fmt: skip
    torch.manual_seed(0)
    model = HookedAudioTransformer(cfg)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def projector_cache(model):
    mel = torch.randn(1, 5, 24)
    name = "audio_projector."
    with torch.no_grad():
        seen = {}
        hooks = [(lambda n: n.startswith(name), lambda x, hook: seen.update({hook.name: x}))]
        with model.hooks(hooks):
            model.embed_audio(mel, torch.tensor([24]))
    return {key.removeprefix(name): value for key, value in seen.items()}


def test_a_hidden_layer_is_linear_activation_linear():
    model = with_projector(ProjectorConfig(d_hidden=10, act_fn="relu"))
    cache, layers = projector_cache(model), model.audio_projector
    assert list(cache) == ["hook_in", "hook_pre", "hook_post", "hook_out"]
    pre = cache["hook_in"] @ layers.hidden.weight.T + layers.hidden.bias
    torch.testing.assert_close(cache["hook_pre"], pre)
    torch.testing.assert_close(cache["hook_post"], F.relu(pre))
    out = F.relu(pre) @ layers.linear.weight.T + layers.linear.bias
    torch.testing.assert_close(cache["hook_out"], out)
    assert cache["hook_pre"].shape == (1, 6, 10)


def test_without_a_hidden_layer_there_are_no_hooks_of_one():
    model = with_projector(ProjectorConfig())
    assert list(projector_cache(model)) == ["hook_in", "hook_out"]
    assert {name for name, _ in model.audio_projector.named_parameters()} == {
        "linear.weight",
        "linear.bias",
    }


@pytest.mark.parametrize("site", ["hook_in", "hook_out"])
def test_a_hook_on_the_projector_acts_while_listening(site):
    model, prompt = hooked_model(), make_prompt()

    def double(x, hook):
        return 2 * x

    hooks = [(f"audio_projector.{site}", double)]
    expected = model.run_with_hooks(prompt, fwd_hooks=hooks)
    with model.listening_to(prompt):
        model(prompt.tokens, attention_mask=prompt.attention_mask)  # the audio is kept from here on
        found = model.run_with_hooks(
            prompt.tokens, attention_mask=prompt.attention_mask, fwd_hooks=hooks
        )
    torch.testing.assert_close(found, expected)


def test_the_projector_is_part_of_what_a_model_is():
    one, other = (with_projector(ProjectorConfig(d_hidden=10, act_fn=f)) for f in ("gelu", "relu"))
    assert of_model(one)["weights"] == of_model(other)["weights"]
    assert of_model(one)["config"] != of_model(other)["config"]


def test_a_single_linear_layer_is_fingerprinted_as_before_it_was_configured():
    model = with_projector(ProjectorConfig())
    before = of_model(model)
    del vars(model.cfg)["projector"]
    assert of_model(model) == before
