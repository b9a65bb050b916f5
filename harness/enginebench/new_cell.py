"""A cell by what it measures: its seed and its name follow from that."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePath

from enginebench.types import Budget, Cell, EngineSpec, Load, WorkloadSpec

__all__ = ["new_cell", "safe_name"]


def new_cell(
    index: int,
    spec: EngineSpec,
    drive: tuple[WorkloadSpec, Load],
    budget: Budget,
    repeat: int,
    *,
    plan_seed: int,
    search: str | None = None,
) -> Cell:
    """The cell at place `index` of a plan with the seed `plan_seed`."""
    workload, load = drive
    seed = _seed(plan_seed, spec, workload, load, repeat)
    cell_id = _id(index, spec, load, repeat)
    return Cell(index, spec, workload, load, budget, repeat, seed, cell_id, search)


def safe_name(name: str) -> str:
    """The last part of a path or hub id, in characters that every file system takes."""
    last = PurePath(name).name.removesuffix(".gguf").lower()
    return re.sub(r"[^a-z0-9._]+", "-", last).strip("-.")[:48] or "model"


def _seed(plan_seed: int, spec: EngineSpec, workload: WorkloadSpec, load: Load, repeat: int) -> int:
    """48 bits of a hash of everything but the engine: small enough for any JSON reader."""
    options = sorted(workload.options.items())
    where = [plan_seed, spec.model, str(spec.hardware)]
    facts = [*where, workload.name, options, str(load), repeat]
    return int.from_bytes(hashlib.blake2b(json.dumps(facts).encode(), digest_size=6).digest())


def _id(index: int, spec: EngineSpec, load: Load, repeat: int) -> str:
    hardware = str(spec.hardware).replace(":", "").replace(",", "-").replace("+", "-")
    engine, model = safe_name(spec.engine), safe_name(spec.model)
    return f"{index:04d}-{engine}-{model}-{hardware}-{load}-r{repeat}"
