"""What the launchers must know of a device."""

import torch

__all__ = ["multiprocessors"]


def multiprocessors(device: torch.device) -> int:
    """How many the device has; a CPU (Triton's interpreter, the twins) counts as 4."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
