"""Several ranks give the tokens of one, for each architecture and each way through the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo_ranks import on_ranks
from tiny_references import (
    ARCHITECTURES,
    OUTPUT_TOKENS,
    RELATIVES,
    Reference,
    drain,
    greedy,
    tokens_of,
)

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_models import Model, open_model
from enginebench_openai.protocol import GenerationRequest, Pooling, SamplingParams, TokenOutput
from enginebench_paged import loader
from enginebench_paged.engine import PagedEngine
from enginebench_paged.parallel.lead import LeadEngine, follow
from enginebench_paged.parallel.ranks import ALONE, Ranks
from enginebench_paged.parallel.shards import Shard, shard, why_not_in

pytestmark = pytest.mark.usefixtures("on_the_cpu")

References = Callable[[str], Reference]
OPTIONS: dict[str, OptionValue] = {
    "dtype": "f32",
    "max_batch": 4,
    "step_tokens": 24,
    "kv_memory_gb": 0.002,
}


def lead_and_follow(
    model: Model, count: int, requests: list[GenerationRequest], **options: OptionValue
) -> dict[str, list[TokenOutput]]:
    """All outputs of an engine of `count` ranks."""

    def work(ranks: Ranks) -> dict[str, list[TokenOutput]]:
        engine = PagedEngine(model, {**OPTIONS, **options}, ranks)
        if ranks.rank:
            follow(engine, ranks)
            return {}
        lead = LeadEngine(engine, ranks)
        for request in requests:
            lead.add(request)
        outputs = drain(lead)  # type: ignore[arg-type]
        stats = lead.stats()
        assert stats.kv_blocks_used == 0
        assert bool(stats.preemptions_total) == (options.get("kv_memory_gb", 1) < 1e-3)
        lead.close()
        return outputs

    return on_ranks(count, work)[0]


def ways() -> list[object]:
    """Two ranks for each; four, which share KV heads, where the heads allow it."""
    many = [(name, 2) for name in ARCHITECTURES] + [(name, 4) for name in RELATIVES]
    often = ("llama", "gemma3", "qwen2moe")
    return [
        pytest.param(*way, marks=() if way[0] in often else pytest.mark.slow)
        for way in many
        if way[0] not in ("phi3", "yarn", "linear") or way[1] == 2
    ]


@pytest.mark.parametrize(("architecture", "count"), ways())
def test_the_tokens_of_each_architecture(
    references: References, architecture: str, count: int
) -> None:
    reference = references(architecture)
    requests = [greedy(str(index), prompt) for index, prompt in enumerate(reference.prompts)]
    outputs = lead_and_follow(reference.model, count, requests)
    for index, expected in enumerate(reference.outputs):
        assert tokens_of(outputs[str(index)]) == expected


def test_preemptions_and_plans_made_ahead_change_nothing(references: References) -> None:
    reference = references("llama")
    requests = [greedy(str(index), prompt) for index, prompt in enumerate(reference.prompts)]
    blocks_of_six = 6.5 * 2 * 3 * 1 * 16 * 8 * 4 / 1e9  # K and V, layers, one head, tokens of f32
    outputs = lead_and_follow(
        reference.model, 2, requests, schedule_ahead=True, kv_memory_gb=blocks_of_six
    )
    for index, expected in enumerate(reference.outputs):
        assert tokens_of(outputs[str(index)]) == expected


@pytest.mark.parametrize(
    "options", [{"speculative": "ngram"}, {"deterministic": True}, {"chunked_prefill": False}]
)
def test_ways_through_the_engine(references: References, options: dict[str, OptionValue]) -> None:
    reference = references("llama")
    requests = [greedy(str(index), prompt) for index, prompt in enumerate(reference.prompts)]
    outputs = lead_and_follow(reference.model, 2, requests, **options)
    for index, expected in enumerate(reference.outputs):
        assert tokens_of(outputs[str(index)]) == expected


def test_draws_without_a_seed_are_the_same_on_all_ranks(references: References) -> None:
    """Else the ranks' sequences would part, and with them what they plan."""
    reference, hot = references("llama"), SamplingParams(temperature=1.5)
    requests = [GenerationRequest(str(n), reference.prompts[0], 20, hot) for n in range(4)]
    outputs = lead_and_follow(reference.model, 2, requests)
    assert len({tokens_of(one) for one in outputs.values()}) > 1
    assert all(len(tokens_of(one)) == 20 for one in outputs.values())


def test_scores_and_embeddings_are_those_of_one_rank(references: References) -> None:
    reference = references("qwen2")
    scored = replace(greedy("scored", reference.prompts[2], 5), logprobs=3, prompt_logprobs=2)
    pooling: Pooling = "mean"
    embedded = GenerationRequest("embedded", reference.prompts[3], 0, pooling=pooling)
    alone = PagedEngine(reference.model, OPTIONS)
    for request in (scored, embedded):
        alone.add(request)
    expected, found = drain(alone), lead_and_follow(reference.model, 2, [scored, embedded])
    vectors = [torch.tensor(of["embedded"][-1].embedding) for of in (found, expected)]
    torch.testing.assert_close(*vectors, rtol=1e-4, atol=1e-5)
    for name in ("logprobs", "prompt_logprobs"):
        ours, theirs = (
            [one.logprob for output in of["scored"] for one in getattr(output, name)]
            for of in (found, expected)
        )
        assert len(ours) > 3
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_aborted_request_leaves_all_ranks(references: References) -> None:
    reference = references("llama")

    def work(ranks: Ranks) -> tuple[int, int]:
        engine = PagedEngine(reference.model, OPTIONS, ranks)
        if ranks.rank:
            follow(engine, ranks)
        else:
            lead = LeadEngine(engine, ranks)
            for name in "ab":
                lead.add(greedy(name, reference.prompts[0]))
            lead.step()
            lead.abort("a")
            drain(lead)  # type: ignore[arg-type]
            lead.close()
        stats = engine.stats()
        return stats.generated_tokens_total, stats.running_requests

    first, second = on_ranks(2, work)
    assert first == second
    assert first[0] < 2 * OUTPUT_TOKENS
    assert first[1] == 0


@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_synthetic_weights_are_parts_of_the_whole(count: int) -> None:
    model = open_model("synthetic:tiny@q4_1")
    whole = loader.load(model, torch.device("cpu"), torch.bfloat16).embedding
    parts = [
        loader.load(shard(model, rank, count), torch.device("cpu"), torch.bfloat16).embedding
        for rank in range(count)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("type", ["f32", "q4_1", "q8_0"])
def test_parts_of_files_put_together_are_the_whole(
    tiny_gguf: Callable[..., Path], type: str
) -> None:
    model = open_model(str(tiny_gguf(type)))
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.0.attn_output.weight"):
        parts = [shard(model, rank, 4).weights[name] for rank in range(4)]
        axis = {part.axis for part in parts if isinstance(part, Shard)}.pop()
        joined = np.concatenate([part.dequantize() for part in parts], axis=axis)
        np.testing.assert_array_equal(joined, model.weights[name].dequantize())


def test_a_rank_reads_its_own_bytes_only(tiny_hf: Callable[..., Path]) -> None:
    model = open_model(str(tiny_hf("f32")))
    part = shard(model, 1, 2).weights
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "token_embd.weight"):
        assert part[name].data.nbytes * 2 == model.weights[name].data.nbytes
        assert np.shares_memory(part[name].data, model.weights[name].data)  # a view: no copy


def test_several_ranks_may_hold_the_same_key_head() -> None:
    model = open_model("synthetic:tiny")  # 4 heads, 2 KV heads
    keys = [shard(model, rank, 4).weights["blk.0.attn_k.weight"] for rank in range(4)]
    firsts = [key.first for key in keys if isinstance(key, Shard)]
    assert firsts == [0, 0, 16, 16]
    assert shard(model, 3, 4).config.n_kv_heads == 1


@pytest.mark.parametrize(("count", "reason"), [(3, "4 heads"), (8, "4 heads")])
def test_models_that_cannot_be_cut_are_refused(count: int, reason: str) -> None:
    model = open_model("synthetic:tiny")
    with pytest.raises(UsageError, match=rf"{reason} cannot be dealt.*may be 1, 2, 4"):
        shard(model, 0, count)
    odd = replace(model.config, n_heads=6, n_kv_heads=2)
    assert "KV heads" in str(why_not_in(odd, 3))
    assert "inner size of 129" in str(why_not_in(replace(model.config, intermediate_size=129), 2))


def test_one_rank_alone_talks_to_nobody() -> None:
    x = torch.ones(2, 3)
    assert ALONE.sum(x) is x
    assert ALONE.side_by_side(x, 3) is x
    assert (ALONE.first("a"), ALONE.least(7)) == ("a", 7)


def test_columns_that_do_not_divide_evenly_are_put_side_by_side() -> None:
    whole = torch.arange(14.0).view(2, 7)
    found = on_ranks(3, lambda ranks: ranks.side_by_side(whole.split(3, 1)[ranks.rank], 7))
    for one in found:
        assert torch.equal(one, whole)


@pytest.mark.slow
def test_a_real_quantized_model_on_three_ranks(smollm2_path: Path) -> None:
    """9 heads, 3 KV heads, Q4_1; columns are cut between blocks."""
    model = open_model(str(smollm2_path))
    prompts = [model.tokenizer.encode(text) for text in ("Once upon a time", "The sky is")]
    requests = [greedy(str(index), prompt, 24) for index, prompt in enumerate(prompts)]
    options: dict[str, OptionValue] = {**OPTIONS, "kv_memory_gb": 0.1}
    alone = PagedEngine(model, options)
    for request in requests:
        alone.add(request)
    expected = {name: tokens_of(of) for name, of in drain(alone).items()}
    found = lead_and_follow(model, 3, requests, kv_memory_gb=0.1)
    assert {name: tokens_of(of) for name, of in found.items()} == expected
