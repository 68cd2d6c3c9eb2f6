"""The real config.json builds the full model, on the meta device."""

import json
import runpy
from collections import Counter
from math import prod
from pathlib import Path

from qwen_audio_golden import FOLDER
from qwen_audio_models import stored_shapes

CONFIG = json.loads((FOLDER / "published_config.json").read_text())
COUNT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "parameters.py"))


def count() -> Counter[str]:
    return COUNT["count_by_module"](COUNT["meta_model"](CONFIG))


def test_the_published_model_has_8_4_billion_parameters():
    parts = count()
    assert parts.total() == 8_396_222_464
    assert parts["audio_encoder"] == 636_784_640
    assert parts["embed"] == parts["unembed"] == 155947 * 4096


def test_as_many_as_its_tensors_hold():
    stored = stored_shapes(CONFIG)
    assert count().total() == sum(map(prod, stored.values()))
