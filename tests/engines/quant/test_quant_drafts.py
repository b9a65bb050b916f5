"""What drafters guess, and that a real model's answer does not depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from quant_models import TINY, random_model

from enginebench.errors import ModelError
from enginebench_models import Model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.drafts import Drafter, ModelDrafter, NgramDrafter
from enginebench_quant.engine import QuantEngine
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.load import load_engine
from enginebench_quant.model import QuantModel
from enginebench_quant.options import QuantOptions


def test_ngrams_guess_what_followed_the_longest_repeated_end() -> None:
    drafter = NgramDrafter(3)
    drafter.begin([7, 1, 2, 3, 4, 5, 6, 9, 2, 3, 8, 1, 2, 3])
    assert drafter.propose(7) == [4, 5, 6]  # 1 2 3 stood there once, 2 3 also before 8
    assert drafter.propose(2) == [4, 5]
    drafter.see([8])
    assert drafter.propose(7) == [1, 2, 3]
    drafter.see([7])
    assert drafter.propose(7) == ()


def test_a_new_request_forgets_the_old_ones_text() -> None:
    drafter = NgramDrafter(3)
    drafter.begin([1, 2, 3, 4, 1, 2])
    assert drafter.propose(1) == [3]
    drafter.begin([1, 2])
    assert drafter.propose(1) == ()


class Echo:
    """Says token + 1, surely or hardly; keeps what its cache would hold."""

    def __init__(self, height: float) -> None:
        self.cache: list[int] = []
        self.height = height
        self.runs: list[tuple[int, int]] = []

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> NDArray[np.float32] | None:
        assert position <= len(self.cache)
        self.cache[position:] = tokens
        self.runs.append((position, len(tokens)))
        logits = np.zeros(50, np.float32)
        logits[tokens[-1] + 1] = self.height
        return logits if want_logits else None

    def close(self) -> None:
        raise AssertionError


def test_a_draft_model_follows_the_text_and_computes_only_what_is_new() -> None:
    runner = Echo(20.0)
    drafter = ModelDrafter(runner, most=3, context=20, least_p=0.5)
    drafter.begin([1, 2, 3])
    assert drafter.propose(7) == [4, 5, 6]
    drafter.see([4, 9])  # the first guess was right, the second was not
    assert drafter.propose(2) == [10, 11]
    assert runner.cache[:5] == [1, 2, 3, 4, 9]
    assert runner.runs == [(0, 3), (3, 1), (4, 1), (4, 1), (5, 1)]
    drafter.see(range(10, 24))
    assert drafter.propose(7) == [24]  # its own context ends there


def test_a_draft_model_that_is_unsure_guesses_nothing() -> None:
    drafter = ModelDrafter(Echo(1.0), most=3, context=20, least_p=0.5)
    drafter.begin([1])
    assert drafter.propose(3) == []


def continuation(model: Model, kernels: Kernels, drafter: Drafter | None) -> list[int]:
    runner = QuantModel(model, kernels, context=256, threads=2)
    engine = QuantEngine(runner, context=256, drafter=drafter)
    prompt = (5, 9, 13, 5, 9, 13, 5, 9)
    engine.add(GenerationRequest("a", prompt, 60, SamplingParams(temperature=0)))
    tokens: list[int] = []
    while engine.has_work():
        for output in engine.step():
            tokens += output.token_ids
    engine.close()
    return tokens


@pytest.mark.parametrize("type", ["F32", "Q4_1"])
def test_greedy_answers_are_the_same_with_and_without(best_kernels: Kernels, type: str) -> None:
    model = random_model(TINY, type)
    draft = QuantModel(random_model(TINY, "Q8_0"), best_kernels, context=256, threads=1)
    plain = continuation(model, best_kernels, None)
    assert continuation(model, best_kernels, NgramDrafter(3)) == plain
    drafter = ModelDrafter(draft, most=5, context=256, least_p=0.0)
    assert continuation(model, best_kernels, drafter) == plain


@pytest.mark.parametrize("type", ["BF16", "Q4_1"])
def test_rows_are_what_single_tokens_give_to_the_last_bit(kernels: Kernels, type: str) -> None:
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, 38).tolist()
    with closing(QuantModel(random_model(TINY, type), kernels, context=128, threads=2)) as runner:
        runner.forward(tokens[:30], 0, want_logits=False)
        expected = []
        for position, token in enumerate(tokens[30:], 30):
            logits = runner.forward([token], position)
            assert logits is not None
            expected.append(logits.copy())
        for count in (8, 5, 4, 2, 1):
            # Other tokens first: what is found must not be what the cache still holds
            runner.forward_rows(tokens[:count], 30)
            found = runner.forward_rows(tokens[30 : 30 + count], 30)
            assert (found == np.stack(expected[:count])).all(), count


@pytest.mark.slow
def test_a_real_models_greedy_answer_is_the_same(smollm2_path: Path) -> None:
    from enginebench_models import open_model

    model = open_model(str(smollm2_path))
    prompt = tuple(model.tokenizer.encode("def add(a, b):\n    return a + b\n\ndef add(a"))
    found = []
    for draft in (None, "ngram", str(smollm2_path)):
        options = QuantOptions.resolve({"draft": draft, "context": 256}, model.config)
        engine = load_engine(model, options, log=lambda message: None)
        engine.add(GenerationRequest("a", prompt, 60, SamplingParams(temperature=0)))
        found.append([t for _ in iter(engine.has_work, False) for o in engine.step()
                      for t in o.token_ids])  # fmt: skip
        engine.close()
    assert found[0] == found[1] == found[2]


def test_a_draft_with_another_vocabulary_is_refused_by_name(smollm2_path: Path, tiny_hf) -> None:  # type: ignore[no-untyped-def]
    from enginebench_models import open_model

    model = open_model(str(smollm2_path))
    options = QuantOptions.resolve({"draft": str(tiny_hf("f32"))}, model.config)
    with pytest.raises(ModelError, match=r"draft .* has another vocabulary"):
        load_engine(model, options, log=lambda message: None)
    options = replace(options, draft="ngram", context=64, threads=1)
    engine = load_engine(model, options, log=lambda message: None)
    engine.close()
