from __future__ import annotations

import pytest

from enginebench import plugins
from enginebench.types import EngineSpec, Hardware, ModelInfo, Numerics, OptionValue, TellsNumerics

GGUF = ModelInfo("m", "gguf", precision="q4_1")
WHOLE = ModelInfo("m", "hf", precision="bf16")
CPU, GPU = Hardware(cpu_threads=2), Hardware(gpus=(0,))
PAGED_LOG = "computes in f32, weights in f32 (32 bits each), keys and values in f32"
VLLM_LOG = "INFO Initializing an LLM engine: model='m', dtype=torch.bfloat16, max_seq_len=2048\n"


@pytest.mark.parametrize(
    ("name", "options", "model", "hardware", "log", "expected"),
    [
        ("vllm", {}, WHOLE, GPU, VLLM_LOG, Numerics("bf16", "bf16", "bf16")),
        ("vllm", {"dtype": "float32"}, WHOLE, CPU, VLLM_LOG, Numerics("f32", "f32", "f32")),
        ("vllm", {"quantization": "fp8"}, WHOLE, GPU, VLLM_LOG, Numerics("fp8", None, "bf16")),
        ("vllm", {"kv_cache_dtype": "fp8"}, WHOLE, GPU, VLLM_LOG, Numerics("bf16", "bf16", "fp8")),
        ("vllm", {}, WHOLE, GPU, "nothing of the kind", Numerics()),
        ("sglang", {}, WHOLE, GPU, "server_args=(dtype='float16')", Numerics("f16", "f16", "f16")),
        ("tgi", {"dtype": "float16"}, WHOLE, GPU, "", Numerics("f16", "f16", "f16")),
        ("llamacpp", {}, GGUF, CPU, "", Numerics("q4_1", "int8", "f16")),
        ("llamacpp", {"cache_type_k": "q8_0"}, GGUF, CPU, "", Numerics("q4_1", "int8", "q8_0")),
        ("ollama", {"kv_cache_type": "q4_0"}, GGUF, CPU, "", Numerics("q4_1", "int8", "q4_0")),
        ("transformers", {}, GGUF, CPU, "", Numerics("f32", "f32", "f32", is_reference=True)),
        ("transformers-cb", {}, GGUF, GPU, "", Numerics("bf16", "bf16", "bf16")),
        ("quant", {}, GGUF, CPU, "", Numerics("q4_1", "int8", "f16")),
        ("quant", {}, WHOLE, CPU, "", Numerics("bf16", "f32", "f16")),
        ("paged", {}, GGUF, CPU, f"{PAGED_LOG}\nready\n", Numerics("f32", "f32", "f32")),
    ],
)
def test_what_each_engine_says_of_its_precision(
    name: str,
    options: dict[str, OptionValue],
    model: ModelInfo,
    hardware: Hardware,
    log: str,
    expected: Numerics,
) -> None:
    engine = plugins.engines()[name]
    assert isinstance(engine, TellsNumerics)
    assert engine.numerics(EngineSpec(name, "m", hardware, options), model, log) == expected
