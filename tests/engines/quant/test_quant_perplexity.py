"""Perplexity and KL divergence: the arithmetic by hand, the logits against `transformers`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from quant_models import TINY, random_model

from enginebench.errors import ModelError, StoreError, UsageError
from enginebench.run_folder import RunFolder, save_run
from enginebench.types import Plan
from enginebench_models import open_model
from enginebench_quant.cli_perplexity import perplexity_command
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel
from enginebench_quant.perplexity import Windows, compare, cut, measure
from enginebench_quant.scorers import EngineScorer, ExactScorer


class Fixed:
    """Predicts the same whatever it reads."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self._logits = np.log(np.array(probabilities, np.float32)) + np.float32(3)
        self.asked: list[tuple[int, int]] = []

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[NDArray[np.float32]]:
        self.asked.append((len(tokens), first))
        for _ in tokens[first:]:
            yield self._logits


def ignore(done: int) -> None:
    pass


# ---------------------------------------------------------------- windows


@given(n_tokens=st.integers(8, 200), context=st.integers(8, 50), limit=st.integers(1, 9))
def test_windows_are_whole_and_in_order(n_tokens: int, context: int, limit: int) -> None:
    if n_tokens < context:
        with pytest.raises(UsageError, match=f"{n_tokens} tokens, less than one window"):
            cut(range(n_tokens), context, bos_id=None)
        return
    windows = cut(range(n_tokens), context, bos_id=None, limit=limit).tokens
    assert len(windows) == min(n_tokens // context, limit)
    assert [t for window in windows for t in window] == list(range(len(windows) * context))


def test_every_window_starts_with_bos_where_there_is_one() -> None:
    windows = cut(range(100, 120), 8, bos_id=1).tokens
    assert [window[0] for window in windows] == [1, 1]
    assert windows[1][1:] == list(range(109, 116))


# ---------------------------------------------------------------- figures


def test_perplexity_of_a_known_distribution() -> None:
    scorer = Fixed([0.5, 0.25, 0.25])
    windows = Windows([[0, 0, 0, 0, 0, 0, 1, 0]], 8)  # tokens 5, 6 and 7 are predicted
    found = measure(scorer, windows, ignore)
    assert scorer.asked == [(7, 4)]
    assert found.n_scored == windows.n_scored == 3
    assert found.value == pytest.approx((0.5 * 0.25 * 0.5) ** (-1 / 3), rel=1e-6)
    assert found.error == pytest.approx(found.value * math.log(2) / 3, rel=1e-6)


def test_divergence_of_known_distributions() -> None:
    own, reference = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]
    windows = Windows([[0] * 8, [1] * 8], 8)
    done: list[int] = []
    first, second, found = compare(Fixed(own), Fixed(reference), windows, done.append)
    assert done == [1, 2]
    assert first.value == pytest.approx(math.sqrt(2 * 4))
    assert second.value == pytest.approx(math.sqrt(4 * 2))
    expected = 0.25 * math.log(0.5) + 0.5 * math.log(2)
    for value in (found.mean, found.median, found.percentile_99, found.largest):
        assert value == pytest.approx(expected, rel=1e-5)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.same_top == 0


def test_a_model_does_not_diverge_from_itself() -> None:
    scorer = Fixed([0.7, 0.2, 0.1])
    _, _, found = compare(scorer, scorer, Windows([[0, 1, 2, 0, 1, 2, 0, 1]], 8), ignore)
    assert (found.mean, found.largest, found.same_top) == (0, 0, 1)


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("is_decoding", [False, True])
def test_the_engine_s_logits_are_the_exact_ones(best_kernels: Kernels, is_decoding: bool) -> None:
    """With F16 weights nothing is rounded but keys and values."""
    model = random_model(TINY, "F16")
    runner = QuantModel(model, best_kernels, context=256, threads=2)
    engine = EngineScorer(runner, is_decoding=is_decoding)
    random = np.random.default_rng(0)
    windows = Windows([random.integers(0, TINY.vocab_size, 250).tolist() for _ in range(2)], 250)
    try:
        found, expected, divergence = compare(engine, ExactScorer(model), windows, ignore)
    finally:
        engine.close()
    assert found.value == pytest.approx(expected.value, rel=1e-4)
    assert divergence.largest < 1e-5
    assert divergence.same_top == 1


@pytest.mark.slow  # importing transformers takes seconds
def test_matches_transformers(tiny_hf: Callable[..., Path]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tiny_hf("f32")
    tokens = np.random.default_rng(3).integers(3, 500, 64).tolist()
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        logits = oracle(torch.tensor([tokens])).logits[0].double()
    scored = torch.log_softmax(logits, -1)[32:63, :].gather(1, torch.tensor(tokens[33:])[:, None])
    exact = ExactScorer(open_model(str(folder)))
    found = measure(exact, Windows([tokens], 64), ignore)
    assert found.value == pytest.approx(float(torch.exp(-scored.mean())), rel=1e-4)


# ---------------------------------------------------------------- the command


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("all work and no play makes a dull day " * 20)
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(
        perplexity_command, [str(a) for a in arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_compares(tiny_gguf: Callable[..., Path], text: Path) -> None:
    options = ("--engine", "exact", "--context", 64, "--windows", 2)
    output = run(tiny_gguf("q4_1"), text, "--against", tiny_gguf("f32"), *options)
    assert "window 2 of 2" in output
    assert "2 windows of 64 tokens, 62 scored" in output
    assert output.count(": perplexity ") == 2
    assert "KL divergence: mean 0." in output


def test_figures_are_kept_in_a_run(
    tiny_gguf: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    kept = save_run(tmp_path / "run", Plan("quality", 0, (), {}), {}).path
    options = ("--engine", "exact", "--context", 64, "--windows", 1, "--into", kept)
    assert "kept in" in run(tiny_gguf("q4_1"), text, "--against", tiny_gguf("f32"), *options)
    [found] = RunFolder.open(kept).info.quality
    assert found.distance is not None and found.distance.kl_nats > 0
    with pytest.raises(StoreError, match="is no Run folder"):
        run(tiny_gguf("q4_1"), text, "--into", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", 100_000], "--context 100000 is above the"),
        (["--hardware", "cpu,cpu:1"], "give one entry"),
        (["--engine", "exact", "--decode"], "--hardware and --decode are for --engine quant"),
        (["--engine", "exact", "--threads", 2], "--threads is for --engine quant"),
    ],
)
def test_what_cannot_be_is_refused(
    tiny_gguf: Callable[..., Path], text: Path, arguments: list[object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(tiny_gguf("f32"), text, *arguments)


def test_other_vocabularies_are_refused(
    tiny_gguf: Callable[..., Path], text: Path, smollm2_path: Path
) -> None:
    with pytest.raises(ModelError, match="different vocabularies"):
        run(tiny_gguf("f32"), text, "--against", smollm2_path)


def test_bytes_that_are_no_text_are_refused(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        run(tiny_gguf("f32"), path)
