"""Small Qwen2-Audio checkpoint folders, in every layout, to load and to spoil."""

import json
import re

from models import Sizes, hf_config
from safetensors.torch import load_file, save_file

from lens_audio import HookedAudioTransformer

SIZES = Sizes()
IN_MEMORY_TO_HUB = [
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(audio_tower|multi_modal_projector)\.", r"\1."),
]


def load(folder, **options):
    return HookedAudioTransformer.from_pretrained(folder, device="cpu", verbose=False, **options)


def in_memory_names(hf):
    return {name: tensor.contiguous().clone() for name, tensor in hf.state_dict().items()}


def hub_names(hf):
    renamed = {}
    for name, tensor in in_memory_names(hf).items():
        for pattern, replacement in IN_MEMORY_TO_HUB:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def write(folder, tensors, n_shards=1, config=None):
    """A checkpoint of these tensors, in one file or sharded with an index."""
    config = config or hf_config(SIZES)
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.save_pretrained(folder)
    if n_shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    files = {name: f"model-{i % n_shards + 1:05d}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: tensors[n] for n in names if files[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def spoil(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
