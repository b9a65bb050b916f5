"""Whether other clients measure what ours does: `bench`, aiperf and guidellm, in turn.

    python tests/benchmarks/client_agreement.py --engines echo,paged --concurrency 4 --requests 64

Installs aiperf and guidellm (PyPI) into virtual environments of their own, with this environment's
torch, so that no other build is fetched. Starts each engine's server once; the clients ask it the
same prompts for answers of the same length, so many at a time, round after round, each round
beginning with another client. Prints the median of the rounds and how far each is from ours.

Exit code 0: all within `--within`; 1: not. Not collected by pytest. Run it while nothing else
runs: a client that stamps what it reads measures how busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import enginebench
from enginebench_models import open_model

BENCH = (sys.executable, "-c", "from enginebench.cli.main import main; main()")
MODEL = "smollm2-135m"
FIGURES = ("TTFT p50 ms", "ITL p50 ms", "output tok/s")
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SERVED = {
    "echo": ("ttft_ms=50", "itl_ms=20"),
    "paged": ("prefix_cache=false",),  # every client asks the same prompts
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a client is to do, and where it may write."""

    url: str
    folder: Path
    prompts: Path  # a JSON object with `prompt` and `output_tokens_count` a line
    concurrency: int
    requests: int
    output_tokens: int
    environment: Path

    def folder_of(self, client: str) -> Path:
        """A fresh one for each call."""
        made = self.folder / f"{client}-{len(list(self.folder.iterdir()))}"
        made.mkdir()
        return made


def ours(job: Job) -> Mapping[str, float]:
    """What `bench run` says. Other clients' ITL is a mean of each request, which is our TPOT."""
    runs = job.folder_of("ours")
    command = [*BENCH, "run", "--url", job.url, "--model", f"remote:{MODEL}", "--route", "chat"]
    command += ["--workload", "dataset", "--set", f"dataset.file={job.prompts}"]
    command += ["--set", "dataset.ignore_eos=true", "--output-tokens", str(job.output_tokens)]
    command += ["--concurrency", str(job.concurrency), "--requests", str(job.requests)]
    command += ["--unchecked", "--no-report", "--out", str(runs)]
    _run(command, job.folder)
    row = enginebench.load(runs).to_pandas().iloc[0]
    return _figures(row.ttft_s_p50 * 1e3, row.tpot_s_p50 * 1e3, row.output_tokens_per_s)


def aiperf(job: Job) -> Mapping[str, float]:
    """What aiperf says."""
    made = job.folder_of("aiperf")
    rows = [json.loads(line) for line in job.prompts.read_text().splitlines()]
    texts = [json.dumps({"text": row["prompt"]}) for row in rows]
    (made / "prompts.jsonl").write_text("\n".join(texts) + "\n")
    command = [_installed(job.environment, "aiperf"), "profile", "-m", MODEL, "--url", job.url]
    command += ["--endpoint-type", "chat", "--streaming", "--use-server-token-count"]
    command += ["--tokenizer", "tokenizer", "--artifact-dir", str(made), "--ui", "none"]
    command += ["--concurrency", str(job.concurrency), "--request-count", str(job.requests)]
    command += ["--input-file", str(made / "prompts.jsonl")]
    command += ["--custom-dataset-type", "single_turn"]
    extra = {"ignore_eos": True, "max_tokens": job.output_tokens}
    command += ["--extra-inputs", json.dumps(extra)]
    _run(command, job.folder)
    said = json.loads((made / "profile_export_aiperf.json").read_text())
    itl, rate = said["inter_token_latency"], said["output_token_throughput"]
    return _figures(said["time_to_first_token"]["p50"], itl["p50"], rate["avg"])


def guidellm(job: Job) -> Mapping[str, float]:
    """What guidellm says."""
    made = job.folder_of("guidellm")
    command = [_installed(job.environment, "guidellm"), "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={job.url},model={MODEL}"]
    command += ["--profile", f"kind=concurrent,streams={job.concurrency}"]
    command += ["--constraint", f"kind=max_requests,count={job.requests}"]
    command += ["--tokenizer", f"kind=hf_auto,model={job.folder / 'tokenizer'}"]
    command += ["--data", f"kind=json_file,path={job.prompts}"]
    command += ["--output", f"kind=json,path={made / 'said.json'}"]
    _run(command, job.folder)
    (said,) = json.loads((made / "said.json").read_text())["benchmarks"]
    ttft, itl, rate = (
        said["metrics"][name]["successful"]
        for name in ("time_to_first_token_ms", "inter_token_latency_ms", "output_tokens_per_second")
    )
    return _figures(ttft["median"], itl["median"], rate["mean"])


CLIENTS: Sequence[Callable[[Job], Mapping[str, float]]] = (ours, aiperf, guidellm)


def _figures(*values: float) -> Mapping[str, float]:
    return dict(zip(FIGURES, values, strict=True))


def _run(command: Sequence[str], folder: Path) -> None:
    """A failure shows what was said."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")


def _installed(environment: Path, package: str) -> str:
    program = environment / package / "bin" / package
    if not program.exists():
        venv.create(environment / package, with_pip=True)
        pip = str(environment / package / "bin" / "pip")
        pinned = environment / "constraints.txt"
        pinned.write_text(f"torch=={version('torch')}\n")
        command = [pip, "install", "--quiet", "--constraint", str(pinned), package]
        subprocess.run(command, check=True)
    return str(program.absolute())


def _write_tokenizer(folder: Path) -> None:
    """As transformers reads it, so that nothing is fetched."""
    folder.mkdir()
    open_model(MODEL).tokenizer.ordinary.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_prompts(path: Path, count: int, output_tokens: int) -> None:
    draw = random.Random(7)
    words = "river stone light paper engine garden number window silver market".split()
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            prompt = " ".join(draw.choices(words, k=64))
            row = {"prompt": prompt, "output_tokens_count": output_tokens}
            file.write(json.dumps(row) + "\n")


@contextmanager
def _served(engine: str, port: int, options: Sequence[str]) -> Iterator[str]:
    settings = [part for option in options for part in ("--set", option)]
    command = [*BENCH, "serve", engine, "--model", MODEL, "--port", str(port), *settings]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "ready on" in line:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def compare(engine: str, chosen: argparse.Namespace) -> float:
    """Prints a table; returns the largest distance from ours, as a share."""
    options = SERVED.get(engine, ())
    found: dict[str, list[Mapping[str, float]]] = {each.__name__: [] for each in CLIENTS}
    with (
        TemporaryDirectory(prefix="enginebench-agreement-") as name,
        _served(engine, chosen.port, options) as url,
    ):
        folder = Path(name)
        _write_tokenizer(folder / "tokenizer")
        _write_prompts(folder / "prompts.jsonl", chosen.requests, chosen.output_tokens)
        job = Job(
            url,
            folder,
            folder / "prompts.jsonl",
            chosen.concurrency,
            chosen.requests,
            chosen.output_tokens,
            chosen.environment.absolute(),
        )
        for number in range(chosen.rounds):
            for client in (*CLIENTS[number % 3 :], *CLIENTS[: number % 3]):
                found[client.__name__].append(client(job))
    return _print(engine, {client: _medians(rounds) for client, rounds in found.items()})


def _medians(rounds: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {figure: median(each[figure] for each in rounds) for figure in FIGURES}


def _print(engine: str, found: Mapping[str, Mapping[str, float]]) -> float:
    print(f"{engine:10}" + "".join(f"{figure:>22}" for figure in FIGURES))
    worst = 0.0
    for client, figures in found.items():
        off = {figure: figures[figure] / found["ours"][figure] - 1 for figure in FIGURES}
        cells = (f"{figures[figure]:13.3f} {off[figure]:+8.2%}" for figure in FIGURES)
        print(f"{client:10}" + "".join(cells), flush=True)
        worst = max(worst, *map(abs, off.values()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="echo,paged", help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=64, help="of each client and round")
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--within", type=float, default=0.01, help="a share; default: %(default)s")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--environment", type=Path, default=Path(".agreement"), help="kept")
    chosen = parser.parse_args()
    chosen.environment.mkdir(exist_ok=True)
    worst = max(compare(engine, chosen) for engine in chosen.engines.split(","))
    print(f"furthest from ours: {worst:.2%}")
    sys.exit(worst > chosen.within)


if __name__ == "__main__":
    main()
