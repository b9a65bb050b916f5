"""`python -m enginebench_peers.ollama_server`: an ollama that serves one GGUF file.

Starts `ollama serve` with an empty store in a temporary folder, imports the file, and stays until
ollama or itself is ended. The user's own store is never touched.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

__all__ = ["main", "modelfile"]

_START_S: Final = 60.0
_POLL_S: Final = 0.05
_GRACE_S: Final = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until ollama ends."""
    asked = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="enginebench-ollama-") as folder:
        address = f"127.0.0.1:{asked.port}"
        env = {
            **os.environ,
            "OLLAMA_HOST": address,
            "OLLAMA_MODELS": f"{folder}/models",
            "OLLAMA_KEEP_ALIVE": "-1",
        }
        with subprocess.Popen(["ollama", "serve"], env=env) as server:
            try:
                _await(address, server)
                recipe = Path(folder, "Modelfile")
                recipe.write_text(modelfile(asked.model, asked.threads, gpu=asked.gpu))
                subprocess.run(
                    ["ollama", "create", asked.name, "-f", str(recipe)], env=env, check=True
                )
                return server.wait()
            finally:
                _end(server)


def modelfile(path: str, threads: int | None, *, gpu: bool) -> str:
    """What ollama is told about the model."""
    lines = [f"FROM {path}"]
    if threads is not None:
        lines.append(f"PARAMETER num_thread {threads}")
    if not gpu:
        lines.append("PARAMETER num_gpu 0")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ollama_server", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--name", required=True, help="what requests call it")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu", action=argparse.BooleanOptionalAction, default=True)
    return parser


def _await(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until ollama answers at all."""
    deadline = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://{address}/", timeout=1).close()
            return
        except urllib.error.HTTPError as error:  # it answers
            error.close()
            return
        except OSError:
            time.sleep(_POLL_S)
    sys.exit("error: ollama serve did not answer; its log, above this line, may say why")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _leave(signum: int, frame: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
