"""Runs the calibrators of plugins and keeps what they measured: the work of `bench calibrate`.

Each is a process of its own, on the cores and GPUs that an engine with that hardware entry would
have, one after the other. Knows neither torch nor numba.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from enginebench.ceilings import Ceilings, Measured
from enginebench.errors import EngineError, UsageError
from enginebench.machine import package_versions, pick_cores
from enginebench.process import NotStarted, describe_exit, log_tail, start
from enginebench.server import hardware_env
from enginebench.types import Calibrator, Hardware

__all__ = ["calibrate"]

END_S = 30.0
"""How long a calibrator may take to end after its last word."""


def calibrate(calibrators: Sequence[Calibrator], hardware: Hardware) -> Ceilings:
    """Run all that can measure `hardware`; UsageError if none can, EngineError if one fails."""
    able = [each for each in calibrators if each.measures_gpus or not hardware.gpus]
    if not able:
        raise UsageError(
            f"no plugin can measure {hardware}: a CPU needs numba or torch, a GPU torch "
            '(pip install "enginebench[all]")'
        )
    found = Measured()
    for calibrator in able:
        found = found.merged(_run(calibrator, hardware))
    at = datetime.now(UTC).isoformat("T", "seconds")
    names = ("numpy", "numba", "llvmlite", "torch", "triton")
    versions = {name: text for name, text in package_versions().items() if name in names}
    return found.ceilings(hardware, at, versions)


def _run(calibrator: Calibrator, hardware: Hardware) -> Measured:
    threads = hardware.cpu_threads
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            process = start(
                calibrator.argv,
                log=log,
                env={**os.environ, **hardware_env(hardware)},
                cores=() if threads is None else pick_cores(threads),
                stdout=subprocess.PIPE,
            )
        except NotStarted as error:
            raise EngineError(
                f"the calibrator {calibrator.name}: {error}", log_tail(log)
            ) from error
        with process:
            assert process.stdout is not None
            printed = process.stdout.read()
            code = process.wait(END_S)
        if code != 0:
            how = "does not end" if code is None else describe_exit(code)
            words = log_tail(log, lines=10)
            raise EngineError(f"the calibrator {calibrator.name} {how}:\n{words}", words)
    return _decode(calibrator, printed)


def _decode(calibrator: Calibrator, printed: bytes) -> Measured:
    try:
        return msgspec.json.decode(printed, type=Measured)
    except msgspec.MsgspecError as error:
        shown = printed[:200].decode(errors="replace")
        raise EngineError(
            f"the calibrator {calibrator.name} printed {shown!r}, which is no line of ceilings: "
            f"{error}"
        ) from error
