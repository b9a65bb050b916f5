"""What every launcher demands of its tensors: a kernel that gets anything else reads foreign
memory.
"""

from torch import Tensor


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_shape(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def require_contiguous(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, its strides are {tensor.stride()}")


def require_dense_rows(**tensors: Tensor) -> None:
    """Demands a contiguous last dimension; others may be strided (a slice of a merged product)."""
    for name, tensor in tensors.items():
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"the last dimension of {name} must be contiguous, strides are {tensor.stride()}"
            )
