"""Compiled kernels are kept in pytest's own cache folder between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginebench_quant.kernels.features import CpuLevel, best_level, supported_levels
from enginebench_quant.kernels.table import Kernels


@pytest.fixture(scope="session")
def kernel_folder(request: pytest.FixtureRequest) -> Path:
    """Where kernels that these tests compile are kept."""
    assert request.config.cache is not None
    return Path(request.config.cache.mkdir("quant-kernels"))


@pytest.fixture(autouse=True)
def shared_kernels(kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that tests load or start find what others have compiled."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernel_folder))


@pytest.fixture(params=[level.name for level in supported_levels()])
def level(request: pytest.FixtureRequest) -> CpuLevel:
    """Every CPU level that this machine can run."""
    return next(level for level in supported_levels() if level.name == request.param)


@pytest.fixture
def kernels(level: CpuLevel, kernel_folder: Path) -> Kernels:
    """The kernels of `level`."""
    return Kernels(level, kernel_folder, log=lambda message: None)


@pytest.fixture
def best_kernels(kernel_folder: Path) -> Kernels:
    """The kernels that this machine runs fastest."""
    return Kernels(best_level(), kernel_folder, log=lambda message: None)
