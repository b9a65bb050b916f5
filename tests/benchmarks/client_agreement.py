"""Whether another client measures what ours does: aiperf and `bench`, in turn, on `echo`.

    python tests/benchmarks/client_agreement.py --concurrency 8 --requests 64

Installs aiperf (PyPI) into a virtual environment of its own, starts the echo engine, whose TTFT and
time between tokens are set, and lets both ask for the same: chats of the same lengths, so many at a
time. Prints what each measured, the truth beside it. Not collected by pytest; run it while nothing
else runs, since the difference is mostly how a client takes a busy machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import enginebench
from enginebench_models import open_model

BENCH = (sys.executable, "-c", "from enginebench.cli.main import main; main()")
MODEL = "smollm2-135m"
FIGURES = ("TTFT p50 ms", "ITL p50 ms", "ITL p90 ms", "output tok/s", "requests/s")
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def aiperf(url: str, chosen: argparse.Namespace, folder: Path) -> Mapping[str, float]:
    """What aiperf says."""
    program = _installed(chosen.environment, "aiperf")
    _write_tokenizer(folder / "tokenizer")
    command = [program, "profile", "-m", MODEL, "--url", url, "--endpoint-type", "chat"]
    command += ["--streaming", "--use-server-token-count", "--ui", "none"]
    command += ["--tokenizer", "tokenizer", "--artifact-dir", str(folder / "aiperf")]
    command += ["--concurrency", str(chosen.concurrency), "--request-count", str(chosen.requests)]
    command += ["--synthetic-input-tokens-mean", "64", "--output-tokens-mean", "64"]
    command += ["--extra-inputs", '{"ignore_eos": true}']
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    said = json.loads((folder / "aiperf" / "profile_export_aiperf.json").read_text())
    itl = said["inter_token_latency"]
    rates = (said["output_token_throughput"]["avg"], said["request_throughput"]["avg"])
    return _figures(said["time_to_first_token"]["p50"], itl["p50"], itl["p90"], *rates)


def ours(url: str, chosen: argparse.Namespace, folder: Path) -> Mapping[str, float]:
    """What `bench run` says. aiperf's ITL is a mean of each request, which is our TPOT."""
    command = [*BENCH, "run", "--url", url, "--model", f"remote:{MODEL}", "--route", "chat"]
    command += ["--concurrency", str(chosen.concurrency), "--requests", str(chosen.requests)]
    command += ["--input-tokens", "64", "--output-tokens", "64"]
    command += ["--no-report", "--out", str(folder / "runs")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    row = enginebench.load(folder / "runs").to_pandas().iloc[0]
    latencies = (row.ttft_s_p50 * 1e3, row.tpot_s_p50 * 1e3, row.tpot_s_p90 * 1e3)
    return _figures(*latencies, row.output_tokens_per_s, row.requests_per_s)


def _figures(*values: float) -> Mapping[str, float]:
    return dict(zip(FIGURES, values, strict=True))


def _installed(environment: Path, package: str) -> str:
    program = environment / package / "bin" / package
    if not program.exists():
        venv.create(environment / package, with_pip=True)
        pip = str(environment / package / "bin" / "pip")
        subprocess.run([pip, "install", "--quiet", package], check=True)
    return str(program.absolute())


def _write_tokenizer(folder: Path) -> None:
    """As transformers reads it, so that nothing is fetched."""
    folder.mkdir()
    open_model(MODEL).tokenizer.ordinary.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@contextmanager
def _echo(chosen: argparse.Namespace) -> Iterator[str]:
    options = ["--set", f"ttft_ms={chosen.ttft_ms}", "--set", f"itl_ms={chosen.itl_ms}"]
    command = [*BENCH, "serve", "echo", "--port", str(chosen.port), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "ready on" in line:
                break
        yield f"http://127.0.0.1:{chosen.port}"
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--ttft-ms", type=float, default=20.0)
    parser.add_argument("--itl-ms", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--environment", type=Path, default=Path(".agreement"), help="kept")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="enginebench-agreement-") as name, _echo(chosen) as url:
        found = [(each.__name__, each(url, chosen, Path(name))) for each in (ours, aiperf)]
    print(f"{'client':8}" + "".join(f"{figure:>14}" for figure in FIGURES))
    for client, figures in found:
        print(f"{client:8}" + "".join(f"{figures[figure]:14.2f}" for figure in FIGURES))
    each_s = (chosen.ttft_ms + 63 * chosen.itl_ms) / 1e3
    rate = chosen.concurrency / each_s
    truth = (chosen.ttft_ms, chosen.itl_ms, chosen.itl_ms, rate * 64, rate)
    print(f"{'truth':8}" + "".join(f"{value:14.2f}" for value in truth))


if __name__ == "__main__":
    main()
