"""A config.json that describes no model is refused by the field, before anything is built."""

import json
import os

import pytest
from checkpoint_folder import hub_names, load, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import Sizes, hf_model
from qwen_audio_models import config_json, write_checkpoint

from lens_audio import HookedAudioTransformer


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, hub_names(hf_model(Sizes())))


@pytest.fixture
def first_generation(tmp_path):
    return write_checkpoint(tmp_path, config_json())


@pytest.fixture
def nothing_built(monkeypatch):
    monkeypatch.setattr(
        HookedAudioTransformer, "__init__", lambda *_: pytest.fail("a model was built")
    )


def put(folder, path, value, file="config.json"):
    """A field of config.json, by its dotted path, is this value."""
    name = folder / file
    config = json.loads(name.read_text()) if name.exists() else {}
    *parents, last = path.split(".")
    holder = config
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    name.write_text(json.dumps(config))


SECOND = [
    *("text_config.hidden_size", "text_config.num_attention_heads", "text_config.head_dim"),
    *("text_config.num_key_value_heads", "text_config.num_hidden_layers"),
    *("text_config.intermediate_size", "text_config.vocab_size"),
    "text_config.max_position_embeddings",
    *("audio_config.d_model", "audio_config.encoder_attention_heads"),
    *("audio_config.encoder_layers", "audio_config.encoder_ffn_dim"),
    *("audio_config.max_source_positions", "audio_config.num_mel_bins"),
]
FIRST = [
    *("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "seq_length"),
    *("audio.n_state", "audio.n_head", "audio.n_layer", "audio.n_ctx", "audio.n_mels"),
]
BAD_SIZES = [0, -4, 10**30, 2.5, "many", True, [32], {}, float("nan")]


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("field", SECOND)
def test_a_size_that_is_no_size_is_named(folder, field):
    for value in BAD_SIZES:
        put(folder, field, value)
        with pytest.raises(ValueError, match=rf"config\.json.*{field}.*whole number from 1 to"):
            load(folder)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("field", FIRST)
def test_a_size_of_the_first_generation_that_is_no_size_is_named(first_generation, field):
    for value in BAD_SIZES:
        put(first_generation, field, value)
        with pytest.raises(ValueError, match=rf"config\.json.*{field}.*whole number from "):
            load(first_generation)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("field", ["text_config.num_hidden_layers", "audio_config.encoder_layers"])
def test_a_million_layers_are_refused_with_the_most_there_may_be(folder, field):
    put(folder, field, 1_000_000)
    with pytest.raises(ValueError, match=rf"{field}.*1 to 1024, not 1000000"):
        load(folder)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_config", 3),
        ("text_config", ["hidden_size"]),
        ("audio_config", "large"),
        ("text_config.rms_norm_eps", "small"),
        ("text_config.rms_norm_eps", -1.0),
        ("text_config.rms_norm_eps", float("inf")),
        ("text_config.hidden_act", 7),
        ("text_config.hidden_act", "no such function"),
        ("audio_config.activation_function", "no such function"),
        ("text_config.rope_parameters", 7),
        ("text_config.rope_parameters.rope_theta", 0),
        ("text_config.rope_parameters.rope_theta", "10000"),
        ("text_config.model_type", "mamba"),
        ("text_config.tie_word_embeddings", "no"),
        ("text_config.eos_token_id", "</s>"),
        ("text_config.eos_token_id", [5, "six"]),
        ("text_config.pad_token_id", [0]),
        ("audio_token_index", "<|AUDIO|>"),
        ("audio_token_index", -1),
        ("architectures", 5),
        ("text_config.use_sliding_window", 1),
        ("torch_dtype", 16),
        ("dtype", "float17"),
        ("text_config.dtype", "Tensor"),
        ("quantization_config", [4]),
    ],
)
def test_another_field_of_the_wrong_kind_is_named(folder, field, value):
    put(folder, field, value)
    with pytest.raises(ValueError, match=rf"config\.json.*{field}"):
        load(folder)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", [1]),
        ("audio.audio_start_id", "<audio>"),
        ("layer_norm_epsilon", None),
        ("rotary_emb_base", -1),
        ("no_bias", 1),
        ("use_dynamic_ntk", "yes"),
    ],
)
def test_another_field_of_the_first_generation_is_named(first_generation, field, value):
    put(first_generation, field, value)
    with pytest.raises(ValueError, match=rf"config\.json.*{field}"):
        load(first_generation)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_token_id", "</s>"),
        ("eos_token_id", [1.5]),
        ("eos_token_id", -2),
        ("pad_token_id", {}),
        ("chat_format", 3),
    ],
)
def test_a_field_of_the_generation_config_is_named(folder, field, value):
    put(folder, field, value, "generation_config.json")
    with pytest.raises(ValueError, match=rf"generation_config\.json.*{field}"):
        load(folder)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("text_config.num_attention_heads", 64, "num_attention_heads 64.*hidden_size 32"),
        ("audio_config.encoder_attention_heads", 5, "encoder_attention_heads 5.*d_model 24"),
        ("text_config.num_key_value_heads", 3, "num_key_value_heads 3.*num_attention_heads 4"),
    ],
)
def test_heads_that_do_not_fit_their_width(folder, field, value, match):
    put(folder, "text_config.head_dim", None)
    put(folder, field, value)
    with pytest.raises(ValueError, match=match):
        load(folder)


@pytest.mark.usefixtures("nothing_built")
def test_heads_of_the_first_generation_that_do_not_fit(first_generation):
    put(first_generation, "audio.n_head", 5)
    with pytest.raises(ValueError, match=r"audio\.n_head 5.*n_state 24"):
        load(first_generation)


@pytest.mark.parametrize("depth", [100, 5000, 200_000])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_deep_nesting_is_refused(folder, depth, file):
    (folder / file).write_text(
        '{"model_type": "qwen2_audio", "x": ' + "[" * depth + "]" * depth + "}"
    )
    with pytest.raises(ValueError, match=rf"{file}.*nested"):
        load(folder)


def test_an_integer_of_many_digits_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "qwen2_audio", "x": ' + "9" * 5000 + "}")
    with pytest.raises(ValueError, match=r"config\.json"):
        load(folder)


def test_a_message_about_a_long_value_is_short(folder):
    put(folder, "text_config.hidden_size", "wide" * 1000)
    with pytest.raises(ValueError, match="hidden_size") as error:
        load(folder)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pipe_as_weight_file_is_refused(folder, name):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=rf"{name} is no regular file"):
        load(folder)


def test_a_pipe_as_shard_is_refused(tmp_path):
    write(tmp_path, hub_names(hf_model(Sizes())), n_shards=2)
    (tmp_path / "model-00002.safetensors").unlink()
    os.mkfifo(tmp_path / "model-00002.safetensors")
    with pytest.raises(ValueError, match=r"model-00002\.safetensors.*no regular file"):
        load(tmp_path)


def test_a_link_to_nothing_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"model\.safetensors is a link to nothing"):
        load(folder)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def fields_of(config, prefix=""):
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from fields_of(value, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("second"), tmp_path_factory.mktemp("first")]
    write(folders[0], hub_names(hf_model(Sizes())))
    write_checkpoint(folders[1], config_json())
    return [(folder, (folder / "config.json").read_text()) for folder in folders]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_of_any_field_loads_or_is_a_value_error(whole, data):
    folder, good = data.draw(st.sampled_from(whole))
    field = data.draw(st.sampled_from(list(fields_of(json.loads(good)))))
    (folder / "config.json").write_text(good)
    put(folder, field, data.draw(ANYTHING))
    try:
        model = load(folder)
    except ValueError:
        return
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
