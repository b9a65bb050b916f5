"""NVIDIA GPUs as NVML sees them: what they are, how they are doing. Needs neither torch nor CUDA.

Indices are NVML's (PCI order), the same as in `Hardware.gpus`. A machine without NVML has no GPUs;
a figure that a GPU does not offer is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "GpuSample", "describe_gpus", "gpu_session"]


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment. Memory is what the whole device has in use, by whomever."""

    memory_bytes: int | None
    utilization_percent: float | None
    power_w: float | None
    energy_j: float | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    temperature_c: float | None
    throttle_reasons: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """An open device."""

    index: int
    handle: Any

    def sample(self) -> GpuSample:
        """Read everything that telemetry wants; about a millisecond."""
        import pynvml as nvml

        read, handle = _read, self.handle
        memory = read(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = read(nvml.nvmlDeviceGetUtilizationRates, handle)
        return GpuSample(
            memory_bytes=None if memory is None else int(memory.used),
            utilization_percent=None if rates is None else float(rates.gpu),
            power_w=_scaled(read(nvml.nvmlDeviceGetPowerUsage, handle), 1e-3),
            energy_j=_scaled(read(nvml.nvmlDeviceGetTotalEnergyConsumption, handle), 1e-3),
            sm_clock_mhz=_scaled(read(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=_scaled(
                read(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM)
            ),
            temperature_c=_scaled(
                read(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            throttle_reasons=read(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
        )

    def describe(self) -> dict[str, Any]:
        """What kind of device it is; nothing that identifies the single one."""
        import pynvml as nvml

        memory = _read(nvml.nvmlDeviceGetMemoryInfo, self.handle)
        capability = _read(nvml.nvmlDeviceGetCudaComputeCapability, self.handle)
        clock = nvml.NVML_CLOCK_SM
        return {
            "index": self.index,
            "name": _read(nvml.nvmlDeviceGetName, self.handle),
            "memory_bytes": None if memory is None else int(memory.total),
            "compute_capability": _dotted(capability),
            "power_limit_w": _scaled(
                _read(nvml.nvmlDeviceGetEnforcedPowerLimit, self.handle), 1e-3
            ),
            "max_sm_clock_mhz": _scaled(_read(nvml.nvmlDeviceGetMaxClockInfo, self.handle, clock)),
            "driver": _read(nvml.nvmlSystemGetDriverVersion),
        }


@contextmanager
def gpu_session(indices: Sequence[int] | None = None) -> Iterator[Sequence[Gpu]]:
    """The GPUs with those indices (None: all); empty where NVML does not work."""
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, no device
        yield ()
        return
    try:
        present = range(nvml.nvmlDeviceGetCount())
        wanted = present if indices is None else [each for each in indices if each in present]
        yield [Gpu(index, nvml.nvmlDeviceGetHandleByIndex(index)) for index in wanted]
    finally:
        nvml.nvmlShutdown()


def describe_gpus() -> list[dict[str, Any]]:
    """All GPUs of the machine, described."""
    with gpu_session() as gpus:
        return [gpu.describe() for gpu in gpus]


def _read(function: Callable[..., Any], *arguments: Any) -> Any:
    import pynvml as nvml

    try:
        return function(*arguments)
    except nvml.NVMLError:  # this device does not offer it
        return None


def _scaled(value: Any, factor: float = 1.0) -> float | None:
    return None if value is None else float(value) * factor


def _dotted(numbers: Sequence[int] | None) -> str | None:
    return None if numbers is None else ".".join(map(str, numbers))
