"""The whole engine on the CPU: greedy tokens are those of `transformers`, however it got there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from hf_relatives import RELATIVES
from tiny_references import ARCHITECTURES, OUTPUT_TOKENS, Reference, drain, greedy, tokens_of

from enginebench.types import OptionValue
from enginebench_models import open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.cache import block_bytes
from enginebench_paged.engine import PagedEngine

pytestmark = pytest.mark.usefixtures("on_the_cpu")

References = Callable[[str], Reference]
PLAIN: dict[str, OptionValue] = {
    "dtype": "f32",
    "block_size": 16,
    "max_batch": 4,
    "step_tokens": 24,
}
MOST_BLOCKS = 6  # what the longest of the reference requests needs


def kv_gigabytes(engine: PagedEngine, reference: Reference, blocks: int) -> float:
    return (blocks + 0.5) * block_bytes(engine.config, reference.model.config) / 1e9


def build(reference: Reference, blocks: int | None = None, **options: OptionValue) -> PagedEngine:
    engine = PagedEngine(reference.model, {**PLAIN, **options})
    if blocks is None:
        return engine
    gigabytes = kv_gigabytes(engine, reference, blocks)
    engine = PagedEngine(reference.model, {**PLAIN, **options, "kv_memory_gb": gigabytes})
    assert engine.stats().kv_blocks_total == blocks
    return engine


def run_all(engine: PagedEngine, reference: Reference) -> None:
    """All prompts at once; every answer is the reference's."""
    for index, prompt in enumerate(reference.prompts):
        engine.add(greedy(str(index), prompt))
    outputs = drain(engine)
    for index, expected in enumerate(reference.outputs):
        assert tokens_of(outputs[str(index)]) == expected
        assert outputs[str(index)][-1].finish_reason == "length"


@pytest.mark.parametrize(
    "architecture", [name for name in ARCHITECTURES if name not in ("yarn", "linear")]
)
def test_each_architecture_one_request_at_a_time(references: References, architecture: str) -> None:
    reference = references(architecture)
    engine = build(reference, prefix_cache=False, max_batch=1, step_tokens=128)
    for index, (prompt, expected) in enumerate(
        zip(reference.prompts, reference.outputs, strict=True)
    ):
        engine.add(greedy(str(index), prompt))
        assert tokens_of(drain(engine)[str(index)]) == expected


def every_way() -> list[object]:
    """All combinations for all architectures; beyond llama, few of them do not count as slow."""
    ways = list(product([True, False], [True, False], [True, False], [None, MOST_BLOCKS]))
    parameters: list[object] = []
    for architecture, way in product(ARCHITECTURES, ways):
        often = architecture == "llama" or way == ways[1]
        often &= architecture not in RELATIVES or architecture in ("gemma3", "qwen2moe")
        marks = () if often else pytest.mark.slow
        parameters.append(pytest.param(architecture, *way, marks=marks))
    return parameters


@pytest.mark.parametrize(
    ("architecture", "chunked_prefill", "prefix_cache", "schedule_ahead", "blocks"), every_way()
)
def test_every_way_through_gives_the_same_tokens(
    references: References,
    architecture: str,
    chunked_prefill: bool,
    prefix_cache: bool,
    schedule_ahead: bool,
    blocks: int | None,
) -> None:
    reference = references(architecture)
    engine = build(
        reference,
        blocks,
        chunked_prefill=chunked_prefill,
        prefix_cache=prefix_cache,
        schedule_ahead=schedule_ahead,
    )
    for _ in range(2):  # the second time, what the first one computed is in the cache
        run_all(engine, reference)
    stats = engine.stats()
    assert stats.kv_blocks_used == 0
    assert stats.generated_tokens_total == 2 * OUTPUT_TOKENS * len(reference.prompts)
    if blocks is not None:
        assert stats.preemptions_total
    if prefix_cache:
        assert stats.prefix_cache_hit_tokens_total
    else:
        assert stats.prefix_cache_hit_tokens_total is None


def test_a_stop_token_ends_a_request_and_is_not_part_of_it(references: References) -> None:
    reference = references("llama")
    for ahead in (False, True):
        engine = build(reference, schedule_ahead=ahead)
        expected = reference.outputs[0]
        stop = next(token for token in expected if token != expected[0])
        engine.add(
            GenerationRequest(
                "one", reference.prompts[0], 12, SamplingParams(temperature=0.0), frozenset([stop])
            )
        )
        outputs = drain(engine)["one"]
        assert tokens_of(outputs) == expected[: expected.index(stop)]
        assert outputs[-1].finish_reason == "stop"
        assert engine.stats().kv_blocks_used == 0


def test_aborts_free_everything_and_disturb_nobody(references: References) -> None:
    reference = references("llama")
    for ahead in (False, True):
        engine = build(reference, schedule_ahead=ahead)
        for index, prompt in enumerate(reference.prompts):
            engine.add(greedy(str(index), prompt))
        outputs = drain(engine, steps=2)
        for index in (0, 3, 7):
            engine.abort(str(index))
        drain(engine, into=outputs)
        for index in (1, 2, 4, 5, 6):
            assert tokens_of(outputs[str(index)]) == reference.outputs[index]
        assert engine.stats().kv_blocks_used == 0
        assert engine.stats().running_requests == engine.stats().waiting_requests == 0


def test_seeded_sampling_does_not_depend_on_company(references: References) -> None:
    reference = references("llama")
    sampling = SamplingParams(temperature=0.9, top_k=40, top_p=0.95, seed=5)
    requests = [
        GenerationRequest(str(index), prompt, OUTPUT_TOKENS, sampling)
        for index, prompt in enumerate(reference.prompts)
    ]
    alone = []
    engine = build(reference)
    for request in requests:
        engine.add(request)
        alone.append(tokens_of(drain(engine)[request.request_id]))
    crowded = build(reference, MOST_BLOCKS, schedule_ahead=True)
    for request in requests:
        crowded.add(request)
    outputs = drain(crowded)
    assert crowded.stats().preemptions_total
    assert [tokens_of(outputs[request.request_id]) for request in requests] == alone
    assert alone != list(reference.outputs)


def test_penalties_are_the_same_after_a_preemption(references: References) -> None:
    reference = references("llama")
    sampling = SamplingParams(
        temperature=0.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5
    )
    requests = [
        GenerationRequest(str(index), prompt, OUTPUT_TOKENS, sampling)
        for index, prompt in enumerate(reference.prompts)
    ]
    roomy, tight = build(reference), build(reference, MOST_BLOCKS, schedule_ahead=True)
    seen = []
    for engine in (roomy, tight):
        for request in requests:
            engine.add(request)
        outputs = drain(engine)
        seen.append([tokens_of(outputs[request.request_id]) for request in requests])
    assert tight.stats().preemptions_total
    assert seen[0] == seen[1]
    assert seen[0] != list(reference.outputs)


def test_requests_that_can_never_be_served_are_refused(references: References) -> None:
    reference = references("llama")
    engine = build(reference, 2)
    with pytest.raises(ValueError, match="the context has 128"):
        engine.add(greedy("long", range(3, 120), 12))
    with pytest.raises(ValueError, match=r"needs 3 KV blocks .* the pool has 2"):
        engine.add(greedy("wide", range(3, 43), 6))
    with pytest.raises(ValueError, match="token id 512 is not in the vocabulary"):
        engine.add(greedy("strange", (3, 512)))
    assert not engine.has_work()


def test_bf16_computes_too(references: References) -> None:
    reference = references("llama")
    engine = build(reference, dtype="bf16")
    engine.add(greedy("one", reference.prompts[4]))
    assert len(tokens_of(drain(engine)["one"])) == OUTPUT_TOKENS


def test_gguf_and_folder_of_one_model_agree(
    tiny_gguf: Callable[..., Path], tiny_hf: Callable[..., Path]
) -> None:
    seen = []
    for path in (tiny_gguf("f32"), tiny_hf("f32")):
        engine = PagedEngine(open_model(str(path)), PLAIN)
        engine.add(greedy("one", range(20, 50)))
        seen.append(tokens_of(drain(engine)["one"]))
    assert seen[0] == seen[1]


def test_synthetic_models_are_filled_in_place() -> None:
    engine = PagedEngine(open_model("synthetic:tiny"), PLAIN)
    engine.add(greedy("one", range(20, 30)))
    assert len(set(tokens_of(drain(engine)["one"]))) > 1
    engine.close()
