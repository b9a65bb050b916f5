"""The plugin: cheap to import, and clear about what the engine cannot do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from enginebench.errors import UsageError
from enginebench.types import EngineSpec, Hardware, ModelInfo, OptionValue
from enginebench_openai import Layout
from enginebench_paged.parallel.layout import layout, spread
from enginebench_paged.plugin import Paged, enginebench_engines

GGUF = ModelInfo("m.gguf", "gguf", precision="q4_1")


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, enginebench_paged.plugin as p; p.Paged().availability();"
        "print(sorted({'torch', 'triton', 'numba', 'pandas', 'locust'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_torch_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Paged().availability().ok
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = Paged().availability()
    assert not missing.ok
    assert missing.fix == 'pip install "enginebench[paged]"'
    refusal = Paged().refuses(GGUF, Hardware(gpus=(0,)))
    assert refusal is not None and "triton" in refusal


@pytest.mark.parametrize(
    ("model", "hardware", "why"),
    [
        (GGUF, Hardware(cpu_threads=2), None),
        (ModelInfo("synthetic:x", "synthetic", precision="q4_k_m"), Hardware(), None),
        (GGUF, Hardware(gpus=(0, 1)), None),
        (ModelInfo("far", "remote"), Hardware(), "known to a server only"),
        (ModelInfo("m.gguf", "gguf", precision="q8_k"), Hardware(), "cannot decode q8_k"),
    ],
)
def test_what_it_refuses(model: ModelInfo, hardware: Hardware, why: str | None) -> None:
    refusal = Paged().refuses(model, hardware)
    assert refusal is None if why is None else refusal is not None and why in refusal


def test_the_server_is_started_with_the_options_of_the_spec() -> None:
    (engine,) = enginebench_engines()
    spec = EngineSpec("paged", "m", Hardware(), {"block_size": 32, "prefix_cache": False})
    argv = engine.launch(spec, GGUF, 4321)
    assert argv.argv[1:3] == ("-m", "enginebench_paged.serve")  # type: ignore[union-attr]
    assert "--block-size=32" in argv.argv  # type: ignore[union-attr]
    assert "--no-prefix-cache" in argv.argv  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("gpus", "options", "expected"),
    [
        ((), {}, {}),
        ((), {"tensor_parallel": 2}, {"tensor_parallel": 2}),
        ((3,), {}, {}),
        ((0, 1), {}, {"tensor_parallel": 2}),
        ((0, 1), {"replicas": 2}, {"replicas": 2}),
        ((0, 1, 2, 3), {"replicas": 2}, {"replicas": 2, "tensor_parallel": 2}),
    ],
)
def test_all_gpus_of_the_hardware_are_used(
    gpus: tuple[int, ...], options: dict[str, OptionValue], expected: dict[str, OptionValue]
) -> None:
    assert spread(options, Hardware(gpus=gpus)) == expected


@pytest.mark.parametrize(
    ("gpus", "options", "message"),
    [
        ((0, 1, 2), {"replicas": 2}, "names 3 GPUs.*tensor_parallel=1 with replicas=2 takes 2"),
        ((0,), {"tensor_parallel": 2}, "names 1 GPUs.*takes 2"),
        ((0, 1), {"tensor_parallel": 0}, "tensor_parallel is 0"),
    ],
)
def test_counts_that_leave_gpus_over_are_refused(
    gpus: tuple[int, ...], options: dict[str, OptionValue], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        spread(options, Hardware(gpus=gpus))


def test_torchrun_says_how_many_ranks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout({"tensor_parallel": 3}) == Layout(processes=3, own_process=True)
    for name, value in {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert layout({}) == Layout()  # somebody else's variables
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert layout({}).processes == 4
    with pytest.raises(UsageError, match="torchrun has started 4 processes"):
        layout({"tensor_parallel": 2})
    with pytest.raises(UsageError, match="replicas and torchrun"):
        layout({"replicas": 2})
