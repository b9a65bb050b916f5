"""What `bench serve` makes of a launch: further models, and options of the server itself."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from enginebench.cli import serve as serve_module
from enginebench.cli.serve import serve
from enginebench.types import Launch


@pytest.fixture
def become(monkeypatch):
    launches: list[Launch] = []
    monkeypatch.setattr(serve_module, "_become", lambda launch, hardware: launches.append(launch))
    monkeypatch.setattr(serve_module, "_check_free", lambda port: None)
    return launches


def run(*arguments: str):
    return CliRunner().invoke(serve, arguments, obj=None)


def test_several_models_and_server_options_reach_the_server(become):
    models = ("--model", "synthetic:tiny", "--model", "synthetic:smollm2-135m")
    result = run("echo", *models, "--", "--max-queue", "7")
    assert result.exit_code == 0, result.output
    (launch,) = become
    assert launch.argv[0] == sys.executable
    assert launch.argv[-8:] == (
        *("--engine-restarts", "3", "--model", "synthetic:smollm2-135m"),
        *("--served-model-name", "synthetic:smollm2-135m", "--max-queue", "7"),
    )


def test_an_engine_of_others_serves_one_model(become, monkeypatch):
    monkeypatch.setattr(
        "enginebench_openai.plugin.Echo.launch",
        lambda self, spec, model, port: Launch(("their-server",), model.name),
    )
    assert run("echo", "--model", "synthetic:tiny", "--", "--their-flag").exit_code == 0
    assert become[0].argv == ("their-server", "--their-flag")
    refused = run("echo", "--model", "synthetic:tiny", "--model", "synthetic:smollm2-135m")
    assert "give --model once" in str(refused.exception)
