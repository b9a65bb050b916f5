"""Tables about models for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

from rich.table import Table

from enginebench_models.cache import cached_path, is_pulled
from enginebench_models.model import Model
from enginebench_models.registry import REGISTRY
from enginebench_models.synthetic import PREFIX, TYPE_NAMES, synthetic_weights
from enginebench_models.synthetic_shapes import SHAPES

__all__ = ["model_tables", "registry_table", "synthetic_table"]


def registry_table() -> Table:
    """Registered models, and where the pulled ones are."""
    table = _table("Models to pull", "name", "size", "type", "license", "on this machine")
    for entry in REGISTRY.values():
        where = str(cached_path(entry)) if is_pulled(entry) else f"bench models pull {entry.name}"
        size = megabytes(entry.size_bytes)
        table.add_row(entry.name, size, entry.quantization, entry.license, where)
    return table


def synthetic_table() -> Table:
    """Synthetic models with their sizes in the default type and the smallest one."""
    table = _table("Random weights at true shapes", "name", "parameters", "bf16", "q4_k_m")
    for name, config in SHAPES.items():
        plain, small = (synthetic_weights(config, type) for type in ("bf16", "q4_k_m"))
        table.add_row(
            PREFIX + name,
            f"{plain.parameters:,}",
            megabytes(plain.size_bytes),
            megabytes(small.size_bytes),
        )
    table.caption = f"add @TYPE for one of {', '.join(TYPE_NAMES)}; bf16 if none is given"
    return table


def model_tables(model: Model) -> Iterator[Table]:
    """Facts, config, tensors by type, tokenizer."""
    yield _pairs(model.info.name, _facts(model))
    yield _pairs(
        "config", {field.name: getattr(model.config, field.name) for field in fields(model.config)}
    )
    yield _tensor_table(model)
    yield _pairs("tokenizer", _tokenizer_facts(model))


def megabytes(n_bytes: int) -> str:
    """A size in decimal units, three digits."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _facts(model: Model) -> dict[str, object]:
    info = model.info
    return {
        "format": info.format,
        "path": info.path or "made in memory",
        "parameters": f"{info.parameters or 0:,}",
        "size": megabytes(info.size_bytes or 0),
        "precision": info.precision,
        "ordinary tokens": f"{info.first_ordinary_token} to {(info.ordinary_token_end or 1) - 1}",
        "chat template": "yes" if model.chat_template else "no",
    }


def _tokenizer_facts(model: Model) -> dict[str, object]:
    tokenizer = model.tokenizer
    ends = ", ".join(f"{id} {tokenizer.piece(id)}" for id in sorted(tokenizer.eos_ids))
    start = (
        "none"
        if tokenizer.bos_id is None
        else f"{tokenizer.bos_id} {tokenizer.piece(tokenizer.bos_id)}"
    )
    return {
        "tokens": tokenizer.vocab_size,
        "special tokens": len(tokenizer.special_ids),
        "first token": start + (", added" if tokenizer.adds_bos else ", not added"),
        "end of generation": ends or "none",
    }


def _tensor_table(model: Model) -> Table:
    table = _table("tensors", "type", "tensors", "values", "size", "bits per value")
    values: Counter[str] = Counter()
    for tensor in model.weights.values():
        values[tensor.type.name] += tensor.size
    for type, count in model.weights.count_by_type().most_common():
        n = values[type.name]
        size = megabytes(int(n * type.bits_per_weight / 8))
        table.add_row(type.name, str(count), f"{n:,}", size, f"{type.bits_per_weight:g}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _pairs(title: str, pairs: dict[str, object]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for what, value in pairs.items():
        table.add_row(what, str(value))
    return table
