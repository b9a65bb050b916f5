"""The JSON report: answers, cells with figures and flags, definitions. Missing figures are null.

Its JSON Schema (`report.schema.json` of this package) is written beside it.

`version` rises when a name or a meaning changes; new names may be added without that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from enginebench.results import ResultSet, RunInfo
from enginebench_reports.summary import CellSummary, Summary

__all__ = ["SCHEMA", "VERSION", "document", "render"]

VERSION = 1
SCHEMA = "report.schema.json"


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `json` report."""
    path = folder / "report.json"
    encoded = msgspec.json.encode(document(Summary.of(results)), enc_hook=str)
    path.write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")
    schema = folder / SCHEMA
    schema.write_bytes((files(__package__) / SCHEMA).read_bytes())
    return [path, schema]


def document(summary: Summary) -> Mapping[str, Any]:
    """Plain data."""
    return {
        "$schema": SCHEMA,
        "version": VERSION,
        "headline": summary.headline,
        "answers": [
            {"group": answer.group.title, "options": answer.group.options, "text": answer.text}
            for answer in summary.answers
        ],
        "runs": [_run(run) for run in summary.results.runs],
        "cells": [_cell(cell) for cell in summary.cells],
        "metrics": [msgspec.to_builtins(info) for info in summary.infos.values()],
    }


def _run(run: RunInfo) -> Mapping[str, Any]:
    return {
        "folder": run.folder.name,
        "name": run.name,
        "created_at": run.created_at,
        "command": run.command,
        "enginebench_version": run.enginebench_version,
        "machine": run.machine,
        "machine_name": run.machine_name,
        "slo": str(run.slo) if run.slo else None,
        "null_engines": sorted(run.null_engines),
        "versions": run.versions,
        "quality": msgspec.to_builtins(run.quality),
    }


def _cell(cell: CellSummary) -> Mapping[str, Any]:
    planned, status = cell.result.cell, cell.result.status
    return {
        "run": cell.result.run.folder.name,
        "cell": planned.id,
        "engine": planned.spec.engine,
        "engine_version": status.engine_version,
        "precision": str(status.numerics or "") or None,
        "options": planned.spec.options,
        "model": planned.spec.model,
        "hardware": str(planned.spec.hardware),
        "workload": planned.workload.name,
        "workload_options": planned.workload.options,
        "users": planned.load.users,
        "rate_rps": planned.load.rate_rps,
        "repeat": planned.repeat,
        "seed": planned.seed,
        "state": status.state,
        "error": status.error,
        "valid": cell.is_valid,
        "flags": [msgspec.to_builtins(flag) for flag in cell.flags],
        "figures": cell.figures,
    }
