"""The Hugging Face folder of a model, for engines that read nothing else.

A GGUF file or synthetic model is written out as a folder, once: matrices dequantized to float16,
which is far finer than the four to eight bits that they came from, vectors as float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginebench import __version__
from enginebench.errors import ModelError
from enginebench.types import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from enginebench_models import Model, ModelConfig, Tensor, Tokenizer

__all__ = ["hf_config", "hf_folder", "in_halves", "why_no_folder", "write_hf"]

DTYPE = "float16"


def why_no_folder(engine: str, model: ModelInfo) -> str | None:
    """Why there is no folder of `model`; None if there is one or it can be made."""
    if model.format == "remote":
        return f"{engine} needs the model's files; {model.name} is known to a server only"
    return None


def hf_folder(model: ModelInfo) -> Path:
    """The folder itself, or one in the cache that holds the same model."""
    if model.format == "hf" and model.path is not None:
        return Path(model.path)
    if model.format == "remote":
        raise ModelError(f"{model.name} is known to a server only; its files are needed")
    from enginebench_models import open_model
    from enginebench_models.cache import cache_folder

    folder = cache_folder() / f"as-{DTYPE}-{__version__}" / _folder_name(model)
    if not (folder / "config.json").exists():  # written last
        write_hf(open_model(model.name), folder)
    return folder


def _folder_name(model: ModelInfo) -> str:
    """Unique for a file as it is now: another file under the same name gets another folder."""
    name = Path(model.name).name.replace(":", "-").replace("@", "-")
    if model.path is None:
        return name
    facts = Path(model.path).stat()
    return f"{name}-{facts.st_size:x}-{facts.st_mtime_ns:x}"


def write_hf(model: Model, folder: Path) -> None:
    """Write `model` into `folder`; ModelError where a folder cannot say how it is computed."""
    import numpy as np
    from safetensors.numpy import save_file

    from enginebench_models.architectures import named
    from enginebench_models.hf_names import hf_name

    model.config.refuse_beyond_llama(
        "a Hugging Face folder written from another format", "use the original folder as --model"
    )
    if named(model.config.architecture).merged:
        raise ModelError(
            f"{model.info.name}: folders with merged matrices are not written; use the original "
            "folder as --model"
        )
    if model.config.rope_scaling is not None and model.config.rope_scaling.kind == "factors":
        raise ModelError(
            f"{model.info.name}: its list of RoPE factors has no counterpart in a Hugging Face "
            "folder; use the original folder as --model"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        hf_name(name): in_halves(tensor, model).astype(
            np.float16 if len(tensor.shape) == 2 else np.float32
        )
        for name, tensor in model.weights.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _save_tokenizer(model.tokenizer, folder / "tokenizer.json")
    _write(folder / "tokenizer_config.json", _tokenizer_config(model))
    _write(folder / "config.json", _whole_config(model))


def in_halves(tensor: Tensor, model: Model) -> NDArray[np.float32]:
    """Dequantized; rows of q and k such that row i of a head turns with row i + head_dim / 2."""
    values, config = tensor.dequantize(), model.config
    part = tensor.name.split(".")[-2]
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(part)
    in_file = model.info.format == "gguf"  # random weights have no order to keep
    if heads is None or config.rope_pairs == "halves" or not in_file:
        return values
    pairs = values.reshape(heads, config.head_dim // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """What a Hugging Face config of this architecture calls our fields, but for RoPE scaling."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
    }


def _whole_config(model: Model) -> dict[str, Any]:
    kind, ends = model.config.architecture, sorted(model.tokenizer.eos_ids)
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "hidden_act": "silu",
        "torch_dtype": DTYPE,
        "rope_scaling": _rope_scaling(model.config),
        "bos_token_id": model.tokenizer.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        **hf_config(model.config),
    }


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_length,
    }


def _save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """With what we do by ourselves and others expect in the file: decoding, and a bos in front."""
    from tokenizers import Tokenizer as Saved
    from tokenizers import decoders, processors

    saved = Saved.from_str(tokenizer.parsing.to_str())
    if json.loads(saved.to_str())["model"].get("byte_fallback"):  # SentencePiece
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        steps += [decoders.Strip(" ", 1, 0)] if tokenizer.strips_space else []
        saved.decoder = decoders.Sequence(steps)
    else:
        saved.decoder = decoders.ByteLevel()
    if tokenizer.adds_bos and tokenizer.bos_id is not None:
        bos = saved.id_to_token(tokenizer.bos_id)
        saved.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_id)]
        )
    saved.save(str(path))


def _tokenizer_config(model: Model) -> dict[str, Any]:
    template = model.chat_template
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": model.tokenizer.adds_bos,
    }
    if template is not None:
        settings |= {**template.special_tokens, "chat_template": template.source}
    return settings


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
