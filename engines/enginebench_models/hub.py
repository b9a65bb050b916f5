"""Models by their Hugging Face hub id: from the local hub cache if there, else downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from enginebench.errors import ModelError
from enginebench_models.safetensors_file import weight_files

__all__ = ["hub_folder", "looks_like_hub_id"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.safetensors", "*.jinja"]


def looks_like_hub_id(name: str) -> bool:
    """`organisation/model`, and no path to a file that could have been meant."""
    return bool(_HUB_ID.fullmatch(name)) and not name.endswith((".gguf", ".safetensors"))


def hub_folder(hub_id: str) -> Path:
    """The local snapshot; the network is asked only if there is none, or a part of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_FILES, local_files_only=True))
        if _is_whole(folder):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass  # nothing there yet
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model {hub_id!r} is no local path and could not be fetched from the hub: {reason}"
        ) from error


def _is_whole(folder: Path) -> bool:
    """Whether everything that a model needs was downloaded; an interrupted one leaves gaps."""
    parts = ("config.json", "tokenizer.json", *weight_files(folder))
    return all((folder / part).is_file() for part in parts)
