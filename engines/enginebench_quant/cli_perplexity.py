"""`bench perplexity`: what a quantization costs, as a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginebench_quant.options import KV_TYPES

if TYPE_CHECKING:
    from enginebench.quality import Distance
    from enginebench.types import OptionValue
    from enginebench_models import Model
    from enginebench_quant.perplexity import Divergence, Perplexity, Scorer, Windows

__all__ = ["cut_text", "perplexity_command", "watch_windows"]


@click.command("perplexity", short_help="How well a model predicts a text.")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--against", help="Another model: how far are MODEL's predictions from its?")
@click.option(
    "--engine",
    type=click.Choice(["quant", "exact"]),
    default="quant",
    show_default=True,
    help="quant: the engine's own arithmetic. exact: float32 on dequantized weights, any type.",
)
@click.option("--context", type=click.IntRange(min=8), default=512, show_default=True)
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows of text.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="For --engine quant; all cores if not given."
)
@click.option(
    "--kv-type",
    type=click.Choice(KV_TYPES),
    default="f16",
    show_default=True,
    help="Type of MODEL's KV cache, for --engine quant; that of --against keeps f16.",
)
@click.option(
    "--hardware",
    metavar="LIST",
    default="cpu",
    show_default=True,
    help="For --engine quant: cpu, cpu:4, cuda:0, or cuda:0+cpu (layers where they fit).",
)
@click.option(
    "--decode",
    is_flag=True,
    help="For --engine quant: each scored token alone, as answers are computed; else as prompts.",
)
@click.option(
    "--into",
    metavar="RUN",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the figures in this Run's folder: its report shows them.",
)
def perplexity_command(
    model: str,
    file: Path,
    against: str | None,
    engine: str,
    context: int,
    windows: int | None,
    threads: int | None,
    kv_type: str,
    hardware: str,
    decode: bool,
    into: Path | None,
) -> None:
    """Perplexity of MODEL on the text FILE; with --against also the KL divergence to that model.

    The second half of each window of --context tokens is scored.
    """
    from enginebench.errors import UsageError
    from enginebench.quality import Quality, write_quality
    from enginebench.run_folder import RunFolder
    from enginebench_models import open_model
    from enginebench_quant.perplexity import compare, measure

    if threads is not None and engine == "exact":
        raise UsageError("--threads is for --engine quant; numpy chooses its own")
    if kv_type != "f16" and engine == "exact":
        raise UsageError("--kv-type is for --engine quant; --engine exact keeps its cache in f16")
    if (hardware != "cpu" or decode) and engine == "exact":
        raise UsageError("--hardware and --decode are for --engine quant; numpy runs on the CPU")
    if into is not None:
        RunFolder.open(into)
    settings = ScorerSettings(context, threads, hardware, decode)
    opened = open_model(model)
    reference = open_model(against) if against else None
    if reference is not None:
        _check_vocabularies(opened, reference)
    text = cut_text(opened, file, context, windows)
    with ExitStack() as stack:
        scorer = _scorer(opened, engine, settings, stack, kv_type)
        distance = None
        if reference is None:
            own = measure(scorer, text, stack.enter_context(watch_windows(text)))
            lines = [_line(model, own)]
        else:
            other = _scorer(reference, engine, settings, stack)
            progress = stack.enter_context(watch_windows(text))
            own, expected, divergence = compare(scorer, other, text, progress)
            lines = [_line(model, own), _line(reference.info.name, expected)]
            lines.append(_divergence(divergence))
            distance = _distance(reference.info.name, expected, divergence)
    click.echo(f"{file}: {len(text.tokens)} windows of {context} tokens, {text.n_scored} scored")
    click.echo("\n".join(lines))
    if into is not None:
        computed = settings.computed(engine, kv_type)
        figures = (own.n_scored, own.value, own.error, distance)
        kept = write_quality(
            into, Quality(opened.info.name, file.name, computed, context, *figures)
        )
        click.echo(f"kept in {kept}")


def cut_text(model: Model, file: Path, context: int, limit: int | None) -> Windows:
    """The text FILE in windows of the model's tokens; errors name what cannot be."""
    from enginebench.errors import ModelError, UsageError
    from enginebench_quant.perplexity import cut

    if context > model.config.context_length:
        raise ModelError(
            f"--context {context} is above the {model.config.context_length} of {model.info.name}"
        )
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: is no UTF-8 text ({error.reason})") from error
    tokenizer = model.tokenizer
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    return cut(tokenizer.encode(text), context, bos_id=bos_id, limit=limit)


def _check_vocabularies(model: Model, reference: Model) -> None:
    from enginebench.errors import ModelError

    if model.tokenizer.pieces != reference.tokenizer.pieces:
        raise ModelError(
            f"{model.info.name} and {reference.info.name} have different vocabularies: "
            "their predictions cannot be compared"
        )


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """How the engine computes logits, for both models alike."""

    context: int
    threads: int | None
    hardware: str
    is_decoding: bool

    def computed(self, engine: str, kv_type: str) -> str:
        """In words, for those who read the figures."""
        if engine == "exact":
            return "float32 on dequantized weights"
        how = "token by token" if self.is_decoding else "as prompts"
        return f"{engine} on {self.hardware}, {how}, KV cache in {kv_type}"


def _scorer(
    model: Model,
    engine: str,
    settings: ScorerSettings,
    stack: ExitStack,
    kv_type: str = "f16",
) -> Scorer:
    import importlib.util

    from enginebench.errors import UsageError
    from enginebench_quant.scorers import EngineScorer, ExactScorer
    from enginebench_quant.scoring_runner import open_runner

    if engine == "exact":
        return ExactScorer(model)
    if importlib.util.find_spec("numba") is None:
        raise UsageError(
            'numba is not installed; type pip install "enginebench[quant]", or take --engine exact'
        )
    chosen: dict[str, OptionValue] = {"context": settings.context, "kv_type": kv_type}
    if settings.threads is not None:
        chosen["threads"] = settings.threads
    runner = open_runner(model, chosen, settings.hardware, log=_log)
    scorer = EngineScorer(runner, is_decoding=settings.is_decoding)
    stack.callback(scorer.close)
    return scorer


def _log(message: str) -> None:
    click.echo(f"quant: {message}", err=True)


@contextmanager
def watch_windows(text: Windows) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, a line for each window elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console, n_windows = Console(stderr=True), len(text.tokens)
    if not console.is_terminal:
        yield lambda done: click.echo(f"window {done} of {n_windows}", err=True)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("windows", total=n_windows)
        yield lambda done: bar.update(task, completed=done)


def _line(name: str, found: Perplexity) -> str:
    return f"{name}: perplexity {found.value:.4f} ± {found.error:.4f}"


def _distance(name: str, expected: Perplexity, found: Divergence) -> Distance:
    from enginebench.quality import Distance

    return Distance(name, expected.value, found.mean, found.error, found.same_top)


def _divergence(found: Divergence) -> str:
    return (
        f"KL divergence: mean {found.mean:.5f} ± {found.error:.5f} nats a token, "
        f"median {found.median:.5f}, 99 % below {found.percentile_99:.4f}, "
        f"largest {found.largest:.4f}; same most likely token {found.same_top:.1%}"
    )
