"""When the GPU is chosen, and what is refused then."""

import subprocess
import sys

import pytest

from enginebench.types import Hardware, ModelInfo
from enginebench_quant.gpu.visible import visible_gpus
from enginebench_quant.gpu.weights import GPU_TYPES
from enginebench_quant.plugin import GPU_TYPES as NAMED_TYPES
from enginebench_quant.plugin import Quant

ONE_GPU = Hardware(gpus=(0,))


def info(*types: str) -> ModelInfo:
    return ModelInfo(name="m", format="gguf", weight_types=types)


def test_the_plugin_names_what_the_kernels_have() -> None:
    assert set(NAMED_TYPES) == set(GPU_TYPES)


@pytest.mark.parametrize("type", NAMED_TYPES)
def test_one_gpu_is_accepted(type: str) -> None:
    assert Quant().refuses(info(type), ONE_GPU) is None


def test_types_without_a_gpu_kernel_are_refused() -> None:
    reason = Quant().refuses(info("Q4_K", "Q3_K"), ONE_GPU)
    assert reason is not None and "no GPU kernel for Q3_K weights" in reason


def test_without_triton_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = Quant().refuses(info("Q4_0"), ONE_GPU)
    assert reason is not None and 'pip install "enginebench[all]"' in reason


def test_an_empty_list_of_devices_hides_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == 0


def test_asking_for_gpus_imports_no_torch() -> None:
    code = "import sys; from enginebench_quant.gpu.visible import visible_gpus; visible_gpus(); "
    code += "print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
