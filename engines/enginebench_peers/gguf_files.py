"""The GGUF file of a model, for engines that read nothing else."""

from __future__ import annotations

from pathlib import Path

from enginebench import __version__
from enginebench.atomic import replacing
from enginebench.errors import ModelError
from enginebench.types import ModelInfo

__all__ = ["gguf_path", "why_no_gguf"]


def why_no_gguf(engine: str, model: ModelInfo) -> str | None:
    """Why there is no GGUF file of `model`; None if there is one or it can be made."""
    if model.format == "hf":
        return (
            f"{engine} reads GGUF files, and {model.name} is a Hugging Face folder; convert it "
            "with llama.cpp's convert_hf_to_gguf.py and give the file as --model"
        )
    if model.format == "remote":
        return f"{engine} needs the model's file; {model.name} is known to a server only"
    return None


def gguf_path(model: ModelInfo) -> Path:
    """The file itself; a synthetic model is written to the cache, once for each version of us."""
    if model.format == "gguf" and model.path is not None:
        return Path(model.path)
    if model.format != "synthetic":
        raise ModelError(why_no_gguf("this engine", model) or f"{model.name} has no file")
    from enginebench_models.cache import cache_folder
    from enginebench_models.synthetic_files import write_synthetic_gguf

    safe = model.name.replace(":", "-").replace("@", "-")
    path = cache_folder() / f"synthetic-{__version__}" / f"{safe}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write_synthetic_gguf(model.name, temporary)
    return path
