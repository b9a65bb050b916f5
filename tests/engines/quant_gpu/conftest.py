"""Kernels are tested in Triton's interpreter where there is no GPU."""

from triton_on_cpu import _seeded, device, patch_interpreter

__all__ = ["_seeded", "device"]

patch_interpreter()
