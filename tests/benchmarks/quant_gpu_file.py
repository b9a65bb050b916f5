"""A GGUF file on a GPU, through the server: seconds from its start to a first token, and memory.

    PYTHONPATH=engines:harness python tests/benchmarks/quant_gpu_file.py [--folder /tmp]

The file is made up at the model's true shape, and in the page cache since it was just written. The
budgets: 6 seconds, and the file, the KV cache and 1 GB. A first start compiles kernels, into
Triton's cache; the second one does not.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch

from enginebench_models import open_model
from enginebench_models.synthetic_files import write_synthetic_gguf
from enginebench_quant.gpu.cache import cache_bytes

START_BUDGET_S, REST_BUDGET_GB = 6.0, 1.0


def used_gb() -> float:
    """Of the first GPU, whoever uses it."""
    free, total = torch.cuda.mem_get_info(0)
    return (total - free) / 1e9


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def first_token(port: int, deadline_s: float) -> None:
    body = json.dumps({"model": "m", "prompt": "A", "max_tokens": 1, "temperature": 0}).encode()
    url, headers = f"http://127.0.0.1:{port}/v1/completions", {"Content-Type": "application/json"}
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] <= 1
                return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        except urllib.error.URLError:
            pass
        if time.monotonic() > deadline_s:
            raise TimeoutError("no first token")
        time.sleep(0.02)


def start_once(path: Path, context: int, log: Path) -> tuple[float, float]:
    """Seconds to the first token, and GB that the server has then."""
    before, port = used_gb(), free_port()
    command = [sys.executable, "-m", "enginebench_quant.serve", "--model", str(path)]
    command += ["--served-model-name", "m", "--port", str(port), "--context", str(context)]
    began = time.monotonic()
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        first_token(port, began + 240)
        return time.monotonic() - began, used_gb() - before
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama-3.1-8b@q4_k_m", help="a synthetic model")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where the file is written, and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        path = folder / f"{options.model}.gguf"
        if not path.exists():
            began = time.monotonic()
            write_synthetic_gguf(f"synthetic:{options.model}", path)
            print(f"wrote the file in {time.monotonic() - began:.0f} s", flush=True)
        config = open_model(str(path)).config
        file_gb = path.stat().st_size / 1e9
        kv_gb = config.n_layers * cache_bytes(config, options.context, "f16") / 1e9
        for turn in ("first start", "second start"):
            log = folder / "server.log"
            start_s, gb = start_once(path, options.context, log)
            rest = gb - file_gb - kv_gb
            print(
                f"{turn}: {start_s:.2f} s to a first token (budget {START_BUDGET_S:g}); {gb:.2f} GB"
                f" = file {file_gb:.2f} + KV {kv_gb:.2f} + {rest:.2f} (budget {REST_BUDGET_GB:g})",
                flush=True,
            )
            said = [line for line in log.read_text().splitlines() if line.startswith("quant:")]
            print("\n".join(said), flush=True)


if __name__ == "__main__":
    main()
