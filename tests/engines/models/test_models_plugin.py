"""The hooks of this package, its commands, and hub ids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub.errors import LocalEntryNotFoundError

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.cli import models
from enginebench_models.hub import looks_like_hub_id
from enginebench_models.open import open_model
from enginebench_models.plugin import enginebench_commands, enginebench_resolve_model

HEAVY = ("torch", "numba", "locust", "pandas", "tokenizers", "jinja2", "transformers", "rich")


def test_importing_the_plugin_is_cheap():
    program = f"import sys, enginebench_models.plugin; print({{*{HEAVY}}} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- resolving


def test_models_are_resolved(tiny_gguf, tiny_hf):
    assert enginebench_resolve_model(name=str(tiny_gguf())).format == "gguf"
    assert enginebench_resolve_model(name=str(tiny_hf())).format == "hf"
    info = enginebench_resolve_model(name="synthetic:qwen2.5-3b")
    assert (info.format, info.vocab_size) == ("synthetic", 151_936)


def test_a_name_that_is_nobody_s_passes_on():
    assert enginebench_resolve_model(name="gpt-oracle") is None


def test_a_name_that_resembles_one_of_ours_is_an_error():
    with pytest.raises(UnknownNameError, match="did you mean smollm2-135m"):
        enginebench_resolve_model(name="smolm2-135m")


def test_missing_files_are_errors():
    for name in ("nowhere/x/model", "model.gguf"):
        with pytest.raises(ModelError):
            enginebench_resolve_model(name=name)


# ---------------------------------------------------------------- hub ids


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-3B", True),
        ("org/model.v1", True),
        ("./org/model", False),
        ("org/sub/model", False),
        ("org/model.gguf", False),
        ("model", False),
        ("../model", False),
    ],
)
def test_what_looks_like_a_hub_id(name, expected):
    assert looks_like_hub_id(name) is expected


def test_a_snapshot_that_is_here_is_used_without_asking_the_network(monkeypatch, tiny_hf):
    calls = []

    def snapshot_download(hub_id, *, allow_patterns, local_files_only=False):
        calls.append(local_files_only)
        return str(tiny_hf())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = open_model("someone/tiny")
    assert model.info.name == "someone/tiny"
    assert model.info.path == str(tiny_hf())
    assert calls == [True]


def test_a_snapshot_with_gaps_is_completed(monkeypatch, tiny_hf, tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def snapshot_download(hub_id, *, allow_patterns, local_files_only=False):
        return str(tmp_path if local_files_only else tiny_hf())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert open_model("someone/tiny").info.path == str(tiny_hf())


def test_without_a_network_the_error_names_the_model(monkeypatch):
    def snapshot_download(hub_id, *, allow_patterns, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        ModelError, match=r"'someone/tiny' is no local path and could not.*Errno -2"
    ):
        open_model("someone/tiny")


def test_a_local_path_goes_before_the_hub(monkeypatch, tmp_path, tiny_hf):
    monkeypatch.chdir(tmp_path)
    Path("someone").mkdir()
    Path("someone/tiny").symlink_to(tiny_hf())
    assert open_model("someone/tiny").info.path == "someone/tiny"


# ---------------------------------------------------------------- commands


def run(*arguments: str):
    return CliRunner().invoke(models, arguments, catch_exceptions=True)


def test_the_commands_are_registered():
    assert [command.name for command in enginebench_commands()] == ["models", "quantize"]


def test_list(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path))
    result = run("list")
    assert result.exit_code == 0
    for part in ("smollm2-135m", "98.4 MB", "bench models pull", "synthetic:llama-3.1-70b"):
        assert part in result.output


def test_show_a_file(tiny_gguf):
    result = run("show", str(tiny_gguf()))
    assert result.exit_code == 0
    for part in ("106,816", "q4_1", "rope_pairs", "adjacent", "Q4_1", "<|im_end|>", "512"):
        assert part in result.output


def test_show_and_pull_refuse_unknown_names():
    for command in ("show", "pull"):
        error = run(command, "smollm2-1350m").exception
        assert isinstance(error, UnknownNameError)
        assert error.exit_code == 2


def test_pull_says_where_the_model_is(smollm2_path):
    result = run("pull", "smollm2-135m")
    assert result.exit_code == 0
    assert result.output.strip() == f"smollm2-135m is at {smollm2_path}"
