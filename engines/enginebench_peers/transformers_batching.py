"""`python -m enginebench_peers.transformers_batching`: transformers' own continuous batching.

`model.init_continuous_batching()` schedules, pages the KV cache and computes in a thread of its
own; our server hands it token ids and takes each token as it comes. Answers are greedy: how tokens
are drawn is a property of transformers' whole manager there, so a request that asks for sampling is
refused rather than answered in another way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import GenerationConfig

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_openai import serve_main
from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenOutput,
)
from enginebench_peers.transformers_model import load_transformers_model
from enginebench_peers.transformers_options import BATCHING_OPTIONS, context_length

if TYPE_CHECKING:
    from enginebench_models import Model

__all__ = ["BatchingEngine", "main", "make_engine"]

STEP_S: Final = 0.05  # how long a step waits for a token before it lets new requests in
CLOSE_S: Final = 5.0
NO_STOP_TOKEN: Final = -1  # transformers' word for it: None would be the model's own


@dataclass(slots=True)
class _Stream:
    request: GenerationRequest
    emitted: int = 0


class BatchingEngine:
    """`TokenEngine` over a started `ContinuousBatchingManager`, which it stops in the end."""

    def __init__(self, manager: Any, context_length: int, parallel: int) -> None:
        self.context_length = context_length
        self.features: frozenset[Feature] = frozenset()
        self._manager, self._parallel = manager, parallel
        self._streams: dict[str, _Stream] = {}
        self._prompt_tokens = self._generated_tokens = 0

    def add(self, request: GenerationRequest) -> None:
        """Hand a request on; ValueError unless it asks for plain greedy decoding."""
        if request.sampling.temperature != 0 or request.sampling != _greedy(request.sampling):
            raise ValueError(
                "transformers-cb decodes greedily: ask for temperature 0 and no penalties"
            )
        self._streams[request.request_id] = _Stream(request)
        self._prompt_tokens += len(request.prompt)
        self._manager.add_request(
            list(request.prompt),
            request_id=request.request_id,
            max_new_tokens=request.max_tokens,
            streaming=True,
            eos_token_id=sorted(request.stop_token_ids) or NO_STOP_TOKEN,
        )

    def abort(self, request_id: str) -> None:
        """Cancel a request; what still comes of it is dropped."""
        if self._streams.pop(request_id, None) is not None:
            self._manager.cancel_request(request_id)

    def has_work(self) -> bool:
        """Whether any answer is incomplete."""
        return bool(self._streams)

    def step(self) -> Sequence[TokenOutput]:
        """What came since the last step; waits a moment for the first."""
        outputs, wait_s = [], STEP_S
        while (result := self._manager.get_result(timeout=wait_s)) is not None:
            wait_s = 0
            if (output := self._taken(result)) is not None:
                outputs.append(output)
        if not outputs and not self._manager.is_running():
            raise RuntimeError("transformers' continuous batching ended; its log says why")
        return outputs

    def stats(self) -> EngineStats:
        """Counters of what was asked and answered."""
        running = min(len(self._streams), self._parallel)
        return EngineStats(
            running_requests=running,
            waiting_requests=len(self._streams) - running,
            prompt_tokens_total=self._prompt_tokens,
            generated_tokens_total=self._generated_tokens,
        )

    def close(self) -> None:
        """Stop transformers' thread; unfinished requests are dropped."""
        self._manager.stop(block=True, timeout=CLOSE_S, hard_stop=True)

    def _taken(self, result: Any) -> TokenOutput | None:
        """What a result holds beyond the one before it; results are cumulative."""
        stream = self._streams.get(result.request_id)
        if stream is None:
            return None
        request, finished = stream.request, result.is_finished()
        tokens = tuple(result.generated_tokens[stream.emitted :])
        stream.emitted += len(tokens)
        if finished:
            del self._streams[request.request_id]
        if result.error is not None:
            return TokenOutput(request.request_id, (), "error", error=result.error)
        stopped = bool(tokens) and tokens[-1] in request.stop_token_ids
        tokens = tokens[:-1] if stopped else tokens
        self._generated_tokens += len(tokens)
        reason: FinishReason | None = ("stop" if stopped else "length") if finished else None
        return TokenOutput(request.request_id, tokens, reason) if tokens or reason else None


def _greedy(sampling: SamplingParams) -> SamplingParams:
    """The same with everything at its default that greedy decoding does not ignore."""
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> BatchingEngine:
    """Load the model with transformers and start its manager."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    net = load_transformers_model(
        model, dtype=str(options["dtype"]), attention=str(options["attention"])
    )
    context, parallel = context_length(model.config, options), _count(options, "parallel")
    page_size = _count(options, "page_size")
    # On a GPU transformers fills what memory is left; on a CPU that would be all of the machine's.
    blocks = None if torch.cuda.is_available() else parallel * -(-context // page_size)
    manager = net.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=NO_STOP_TOKEN),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=blocks,
            max_batch_tokens=_count(options, "max_batch_tokens"),
            max_requests_per_batch=parallel,
            allow_block_sharing=bool(options["prefix_sharing"]),
            auto_switch_to_flash=False,  # the option says which attention
        ),
    )
    manager.start()
    return BatchingEngine(manager, context, parallel)


def _count(options: Mapping[str, OptionValue], name: str) -> int:
    count = int(options[name])
    if count < 1:
        raise UsageError(f"{name} is {count}; it must be 1 or more")
    return count


def main() -> None:
    """Serve until told to stop."""
    serve_main(
        sys.argv[1:],
        description="Serve transformers' continuous batching.",
        options=BATCHING_OPTIONS,
        make_engine=make_engine,
    )


if __name__ == "__main__":
    main()
