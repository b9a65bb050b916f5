"""Triton kernels run on the GPU where there is one, else in Triton's interpreter on the CPU.

Triton reads the variable when it is first imported and whenever a kernel is defined, so it stays
set.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

    from triton.runtime import interpreter

    _patch_tensor = interpreter._patch_lang_tensor

    def _patch_tensor_index(tensor, scope) -> None:
        """Triton 3.6 turns its one-element arrays into loop bounds by int(), which numpy 2.4
        refuses.
        """
        _patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = _patch_tensor_index


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)
