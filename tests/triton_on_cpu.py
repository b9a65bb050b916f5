"""Triton kernels under test run on the GPU where there is one, else in Triton's interpreter.

Triton reads its variable when it is first imported and whenever a kernel is defined, so it is set
before any test module is, for the whole process. Importing this module imports neither torch nor
Triton.
"""

import os
from functools import cache
from pathlib import Path

import pytest

HAS_GPU = Path("/dev/nvidiactl").exists()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"


@cache
def patch_interpreter() -> None:
    """Triton 3.6 turns its one-element arrays into loop bounds by int(), which numpy 2.4 refuses,
    and loses the carry when it rounds to fp8.

    Done once, however often it is asked for.
    """
    if HAS_GPU:
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_index(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_index
    convert = interpreter._convert_float

    def convert_to_fp8(input, input_dtype, output_dtype, rounding_mode):
        if str(output_dtype) != "fp8e4nv":
            return convert(input, input_dtype, output_dtype, rounding_mode)
        import torch

        values = torch.from_numpy(input.astype("float32", copy=True))
        return values.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    interpreter._convert_float = convert_to_fp8


@pytest.fixture
def device():
    """Where kernels under test run."""
    import torch

    return torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(7)
