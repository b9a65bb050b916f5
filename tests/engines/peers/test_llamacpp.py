"""llama.cpp's launcher: which server, which flags, what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from peer_stub import Stub

from enginebench.errors import UsageError
from enginebench.types import EngineSpec, Hardware, Launch, ModelInfo, OptionValue
from enginebench_peers.flags import option_flags
from enginebench_peers.gguf_files import gguf_path
from enginebench_peers.llamacpp import LlamaCpp
from enginebench_peers.llamacpp_server import make_params, make_parser

CPU = Hardware(cpu_threads=2)
MODEL = ModelInfo("m", "gguf", path="/models/m.gguf")


@pytest.fixture
def no_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def launch(hardware: Hardware = CPU, **options: OptionValue) -> Launch:
    return LlamaCpp().launch(EngineSpec("llamacpp", "m", hardware, options), MODEL, 4321)


def flags(hardware: Hardware = CPU, **options: OptionValue) -> dict[str, str]:
    """Flags with their values; those without one have an empty value."""
    argv = launch(hardware, **options).argv
    words = argv[argv.index("--model") :]
    pairs = zip(words, [*words[1:], "--"], strict=True)
    return {
        word: "" if value.startswith("--") else value
        for word, value in pairs
        if word.startswith("--")
    }


def test_options_become_flags() -> None:
    options = {"batch_size": 4, "kv_unified": True, "cache_prompt": False, "parallel": 2}
    found = list(option_flags(options, without=("parallel",)))
    assert found == ["--batch-size", "4", "--no-cache-prompt", "--kv-unified"]


def test_the_package_is_started_where_there_is_no_binary(no_binary: None) -> None:
    start = launch().argv[:3]
    assert start == (sys.executable, "-m", "enginebench_peers.llamacpp_server")


def test_defaults(no_binary: None) -> None:
    assert flags() == {
        "--model": "/models/m.gguf",
        "--alias": "m",
        "--host": "127.0.0.1",
        "--port": "4321",
        "--ctx-size": str(16 * 2048),
        "--parallel": "16",
        "--gpu-layers": "0",
        "--threads": "2",
        "--threads-batch": "2",
        "--metrics": "",
        "--no-webui": "",
    }


def test_every_option_reaches_the_server(no_binary: None) -> None:
    found = flags(
        parallel=4,
        context=100,
        batch_size=64,
        ubatch_size=32,
        gpu_layers=3,
        split_mode="row",
        flash_attn="on",
        cache_type_k="q8_0",
        cache_type_v="q4_0",
        kv_unified=True,
        cache_prompt=False,
        cache_ram=0,
    )
    assert found["--ctx-size"] == "400"
    assert (found["--gpu-layers"], found["--split-mode"]) == ("3", "row")
    assert (found["--cache-type-k"], found["--cache-type-v"]) == ("q8_0", "q4_0")
    assert found.keys() >= {"--kv-unified", "--no-cache-prompt", "--cache-ram"}
    words = [word for pair in found.items() for word in pair if word]
    asked = make_parser().parse_args(words)
    assert (asked.batch_size, asked.ubatch_size, asked.cache_ram) == (64, 32, 0)
    assert (asked.kv_unified, asked.cache_prompt, asked.webui) == (True, False, False)


def test_all_layers_go_to_the_gpus_and_threads_stay_llamacpps(no_binary: None) -> None:
    found = flags(Hardware(gpus=(0, 1)))
    assert found["--gpu-layers"] == "999"
    assert "--threads" not in found
    assert flags(Hardware(cpu_threads=8, gpus=(0,)))["--threads"] == "8"


@pytest.mark.parametrize("option", ["parallel", "context"])
def test_counts_must_be_positive(no_binary: None, option: str) -> None:
    with pytest.raises(UsageError, match=rf"llamacpp\.{option} is 0; it must be 1 or more"):
        launch(**{option: 0})


def test_what_is_no_gguf_is_refused() -> None:
    refuses = LlamaCpp().refuses
    assert refuses(MODEL, CPU) is None
    assert refuses(ModelInfo("synthetic:tiny", "synthetic"), CPU) is None
    assert "convert_hf_to_gguf" in (refuses(ModelInfo("f", "hf", path="/f"), CPU) or "")
    assert "known to a server only" in (refuses(ModelInfo("remote", "remote"), CPU) or "")


def test_a_synthetic_model_becomes_a_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path))
    model = ModelInfo("synthetic:tiny@q4_1", "synthetic")
    path = gguf_path(model)
    written = path.stat().st_mtime_ns
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.is_relative_to(tmp_path)
    assert gguf_path(model).stat().st_mtime_ns == written
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_without_either_the_fix_is_named(no_binary: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    state = LlamaCpp().availability()
    assert (state.ok, state.fix) == (False, "pip install xllamacpp")


def test_a_binary_on_the_path_wins(stub: Stub) -> None:
    stub.install(
        "llama-server", version="version: 6543 (abc)", devices="  CUDA0: NVIDIA H100 (1 MiB)"
    )
    engine = LlamaCpp()
    assert engine.availability().version == "b6543"
    assert engine.refuses(MODEL, Hardware(gpus=(0,))) is None
    assert launch().argv[0] == str(stub.folder / "llama-server")


def test_a_build_without_cuda_refuses_gpus(stub: Stub) -> None:
    stub.install("llama-server", version="version: 1", devices="  Vulkan0: something")
    assert "sees no CUDA device" in (LlamaCpp().refuses(MODEL, Hardware(gpus=(0,))) or "")


@pytest.mark.peer
def test_flags_become_llamacpps_parameters() -> None:
    xllamacpp = pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    argv = "--model m.gguf --alias a/b --port 1 --ctx-size 64 --parallel 2 --gpu-layers 0"
    argv += " --threads 1 --threads-batch 2 --batch-size 32 --ubatch-size 16 --cache-type-k q8_0"
    argv += " --cache-type-v q4_0 --split-mode row --flash-attn on --kv-unified --no-cache-prompt"
    argv += " --cache-ram 5 --metrics --no-webui"
    params = make_params(xllamacpp, make_parser().parse_args(argv.split()))
    assert (params.model.path, params.model_alias, params.port) == ("m.gguf", {"a/b"}, 1)
    assert (params.n_ctx, params.n_parallel, params.n_gpu_layers) == (64, 2, 0)
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (1, 2)
    assert (params.n_batch, params.n_ubatch, params.cache_ram_mib) == (32, 16, 5)
    assert params.cache_type_k == xllamacpp.ggml_type.GGML_TYPE_Q8_0
    assert params.cache_type_v == xllamacpp.ggml_type.GGML_TYPE_Q4_0
    assert params.split_mode == xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_ROW
    assert params.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert (params.kv_unified, params.cache_prompt) == (True, False)
    assert (params.endpoint_metrics, params.ui) == (True, False)
