"""A server of this repository as a child process, for the scripts beside this file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

__all__ = ["MODULES", "RunningServer", "running_server"]

MODULES = {
    "echo": "enginebench_openai.echo",
    "paged": "enginebench_paged.serve",
    "quant": "enginebench_quant.serve",
}


@dataclass(frozen=True, slots=True)
class RunningServer:
    """`process` is the front; its children hold the engine where that is a process."""

    url: str
    process: psutil.Process

    def family(self) -> list[psutil.Process]:
        """All processes of the server."""
        return [self.process, *self.process.children(recursive=True)]

    def rss_bytes(self) -> int:
        """Resident memory of all of them; shared pages count in each."""
        return sum(one.memory_info().rss for one in self.family())


@contextmanager
def running_server(engine: str, arguments: Sequence[str]) -> Iterator[RunningServer]:
    """A server that answers; told to stop at the end, and its exit code checked."""
    argv = [sys.executable, "-m", MODULES[engine], "--port", "0", *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("ready on")), None)
        if line is None:
            raise SystemExit(f"the server did not start: {' '.join(argv)}")
        try:
            yield RunningServer(line.split()[2], psutil.Process(process.pid))
        finally:
            process.terminate()
            if process.wait(60) != 0:
                raise SystemExit(f"the server ended with code {process.returncode}")
