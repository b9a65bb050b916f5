"""What the plugin says of itself, of models and hardware, and the command that it writes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from quant_models import TINY, with_flags

from enginebench.errors import ModelError, UsageError
from enginebench.plugins import resolve_model
from enginebench.types import Engine, EngineSpec, Hardware, ModelInfo
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.options import CPU_LEVELS, OPTIONS, QuantOptions
from enginebench_quant.plugin import COMPUTED_TYPES, Quant

CPU = Hardware(cpu_threads=2)


def info(**facts: object) -> ModelInfo:
    return ModelInfo(**{"name": "m", "format": "gguf", "weight_types": ("Q4_1",)} | facts)  # type: ignore[arg-type]


def test_is_an_engine_that_can_run_here() -> None:
    engine = Quant()
    assert isinstance(engine, Engine)
    assert engine.availability().ok


def test_without_numba_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    availability = Quant().availability()
    assert not availability.ok
    assert availability.fix == 'pip install "enginebench[quant]"'


def test_importing_the_plugin_is_cheap() -> None:
    code = "import sys, enginebench_quant.plugin; print([m for m in ('numba', 'torch', 'numpy') "
    code += "if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("type", COMPUTED_TYPES)
def test_accepts_what_it_computes(type: str) -> None:
    assert Quant().refuses(info(weight_types=(type,)), CPU) is None


@pytest.mark.parametrize(
    "model, hardware, reason",
    [
        (info(), Hardware(gpus=(0, 1)), "cuda:0,1 names 2"),
        (info(format="remote"), CPU, "m is known to a server only"),
        (info(architecture="qwen3moe"), Hardware(gpus=(0,)), "mixtures of experts, on a CPU only"),
        (info(weight_types=("IQ2_XS", "Q4_K")), CPU, "no kernel for IQ2_XS weights, which m has"),
    ],
)
def test_refuses_and_says_why(model: ModelInfo, hardware: Hardware, reason: str) -> None:
    assert reason in (Quant().refuses(model, hardware) or "")


@pytest.mark.parametrize("type", ["f16", "q4_1", "q4_k_m", "q6_k"])
def test_accepts_synthetic_models_and_mixes(type: str) -> None:
    model = resolve_model(f"synthetic:llama-3.2-1b@{type}")
    assert Quant().refuses(model, CPU) is None


def test_launch_passes_every_option_on() -> None:
    spec = EngineSpec("quant", "m", CPU, {"context": 512, "prompt_cache": False})
    argv = Quant().launch(spec, info(), 1234).argv
    assert argv[1:3] == ("-m", "enginebench_quant.serve")
    assert {"--context=512", "--no-prompt-cache"} <= set(argv)


@pytest.mark.parametrize(
    "hardware, chosen, flags",
    [
        (Hardware(gpus=(0,)), {}, []),
        (Hardware(8, (0,)), {}, ["--gpu-layers=auto"]),
        (Hardware(8, (0,)), {"gpu_layers": "5"}, ["--gpu-layers=5"]),
        (CPU, {}, []),
    ],
)
def test_layers_go_where_they_fit_with_both(hardware, chosen, flags) -> None:
    argv = Quant().launch(EngineSpec("quant", "m", hardware, chosen), info(), 1234).argv
    assert [word for word in argv if word.startswith("--gpu-layers")] == flags


def test_the_plugin_names_what_the_kernels_have() -> None:
    """The plugin may not import the kernels, so it repeats their names."""
    assert set(COMPUTED_TYPES) == set(FORMATS)
    assert set(CPU_LEVELS) == {"auto", *LEVELS}


def test_defaults_are_resolved() -> None:
    options = QuantOptions.resolve({}, TINY)
    assert options.context == TINY.context_length
    assert options.threads >= 1 and options.prompt_cache and options.cpu_level == "auto"
    assert QuantOptions.resolve({}, with_flags(context_length=131_072)).context == 4096
    assert QuantOptions.resolve({}, with_flags(sliding_window=64)).context == TINY.context_length


@pytest.mark.parametrize(
    "chosen, error, words",
    [
        ({"context": 513}, ModelError, "context 513 is above the model's context of 512"),
        ({"context": 1}, UsageError, "context must be 2 or more; got 1"),
        ({"gpu_layers": "some"}, UsageError, "a number of layers or auto; got some"),
        ({"gpu_layers": "3"}, UsageError, "gpu_layers must be 2 at most"),
        ({"threads": 0}, UsageError, "threads must be 1 or more; got 0"),
    ],
)
def test_impossible_options_are_refused(
    chosen: dict[str, int | str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        QuantOptions.resolve(chosen, TINY)


def test_every_option_is_resolved() -> None:
    names = {option.name for option in OPTIONS}
    assert names == set(QuantOptions.__dataclass_fields__)
