"""Where a checkpoint's files are: in a folder, or on the hub. Without torch, so that commands ask first."""

import os
from collections.abc import Sequence
from pathlib import Path

# What a checkpoint holds beside its weights: sizes, tokenizer, feature extractor.
SMALL_FILES = ("*.json", "*.jinja", "merges.txt", "vocab.*", "*.tiktoken")


def checkpoint_folder(
    path_or_hub_id: str | os.PathLike[str], files: Sequence[str], revision: str | None = None
) -> Path:
    """The local folder of a checkpoint; of a hub id the files of these patterns are fetched.

    Raises:
        FileNotFoundError: for neither a folder nor a hub id.
    """
    path, name = Path(path_or_hub_id).expanduser(), os.fspath(path_or_hub_id)
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{name} is a file; give the folder that holds config.json")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a checkpoint that the hub could give: {error}"
        ) from error
