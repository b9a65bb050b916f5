"""Machine code of kernels, kept in files and loaded by LLVM's linker alone.

A kernel is compiled by numba once for a CPU; from then on a process that needs it imports no
compiler, which saves a second of its start and 50 MB. A file is a digest of the code, then an
object file with one entry, `kernel`. Kernels raise nothing; if one did, the process would end.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

__all__ = ["compiled_code", "host_name", "load_code", "read_code", "write_code"]

ENTRY = "kernel"
ERROR_SYMBOLS = ("numba_gil_ensure", "numba_gil_release", "numba_unpickle")  # of raising alone
_engines: list[Any] = []  # own the code that was loaded


def host_name() -> str:
    """What code is compiled for: the CPU, its features and the compiler."""
    return f"{llvmlite.__version__} {llvm.get_host_cpu_name()} {_features()}"


def compiled_code(function: Any) -> bytes:
    """The object file of a numba `cfunc`."""
    text = function.inspect_llvm().replace(function.native_name, ENTRY)
    return bytes(_machine().emit_object(llvm.parse_assembly(text)))


def load_code(code: bytes) -> int:
    """Address of its entry; the code stays as long as the process."""
    module = llvm.parse_assembly("")
    engine = llvm.create_mcjit_compiler(module, _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(ENTRY))


def read_code(path: Path) -> bytes | None:
    """The code in a file; None if there is none, or if it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    code = content[32:]
    return code if code and hashlib.sha256(code).digest() == content[:32] else None


def write_code(path: Path, code: bytes) -> None:
    """Atomically: processes that start at once may all write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(hashlib.sha256(code).digest() + code)
    partial.replace(path)


@functools.cache
def _features() -> str:
    return str(llvm.get_host_cpu_features().flatten())


@functools.cache
def _start() -> None:
    """Make LLVM ready for this machine, and give every name in the code a meaning."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if sys.platform == "win32":
        import numba  # noqa: F401 - tells LLVM where this system has its mathematics
    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for name in ERROR_SYMBOLS:
        if llvm.address_of_symbol(name) is None:
            llvm.add_symbol(name, abort)


def _machine() -> Any:
    """One for each engine, which owns it."""
    _start()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_features(),
        opt=3,
        reloc="default",
        codemodel="jitdefault",
        jit=True,
    )
