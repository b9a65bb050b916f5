"""Compiled kernels are kept in pytest's own cache folder between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginebench_quant.kernels.features import CpuLevel, supported_levels
from enginebench_quant.kernels.table import Kernels, use_cache_folder


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(request: pytest.FixtureRequest) -> Path:
    """Where numba keeps what it compiles for these tests."""
    assert request.config.cache is not None
    return use_cache_folder(Path(request.config.cache.mkdir("quant-kernels")))


@pytest.fixture(params=[level.name for level in supported_levels()])
def level(request: pytest.FixtureRequest) -> CpuLevel:
    """Every CPU level that this machine can run."""
    return next(level for level in supported_levels() if level.name == request.param)


@pytest.fixture
def kernels(level: CpuLevel) -> Kernels:
    """The kernels of `level`."""
    return Kernels(level, log=lambda message: None)
