"""The body of llama-server's /completion, and what its fields are called in OpenAI's API.

The names and defaults are those of llama-server's documentation. Fields that would change the
answer in a way that this server cannot are refused by name, as everywhere (`bodies.NEUTRAL`).
`n_keep` is honoured by nature, since nothing of a prompt is discarded, unless the engine shifts its
context: then the server's own option says how much stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from enginebench_openai.bodies import CompletionBody, StructuredOutputs
from enginebench_openai.chain import DRY_BREAKERS
from enginebench_openai.errors import ApiError
from enginebench_openai.params import MAX_BIAS

if TYPE_CHECKING:
    from enginebench_models import Tokenizer

__all__ = ["NativeBody", "completion_body", "generation_settings"]

_RANDOM_SEEDS: Final = (-1, 2**32 - 1)
_WINDOW: Final = 64

Bias = list[tuple[int | str, float | bool]] | dict[str, float | bool]


class NativeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """/completion. Text and token ids may be mixed within one prompt; a list holds several."""

    prompt: str | list[str | int | list[str | int]]
    model: str | None = None
    n_predict: int = -1
    n_cmpl: int = 1
    n_keep: int = 0
    id_slot: int = -1
    stream: bool = False
    stop: list[str] = msgspec.field(default_factory=list)
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = _WINDOW
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = _WINDOW
    dry_sequence_breakers: list[str] = msgspec.field(default_factory=lambda: list(DRY_BREAKERS))
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int = -1
    ignore_eos: bool = False
    logit_bias: Bias | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: int = 0
    return_tokens: bool = False
    timings_per_token: bool = False
    response_fields: list[str] | None = None

    cache_prompt: Any = None
    lora: Any = None
    min_keep: Any = None
    n_cache_reuse: Any = None
    n_indent: Any = None
    post_sampling_probs: Any = None
    return_progress: Any = None
    samplers: Any = None
    sse_ping_interval: Any = None
    t_max_predict_ms: Any = None


_SAME: Final = (
    "stream stop temperature dynatemp_range dynatemp_exponent top_k top_p min_p typical_p "
    "repeat_last_n presence_penalty frequency_penalty dry_multiplier dry_base dry_allowed_length "
    "dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold mirostat mirostat_tau "
    "mirostat_eta ignore_eos"
).split()
_SETTINGS: Final = (*_SAME, "seed", "repeat_penalty", "n_predict", "n_keep", "n_probs", "grammar")


def completion_body(body: NativeBody, model: str, tokenizer: Tokenizer) -> CompletionBody:
    """The same request in the other API's words; its prompt is left to the route."""
    schema = body.json_schema
    return CompletionBody(
        model=model,
        prompt="",
        n=body.n_cmpl,
        seed=None if body.seed in _RANDOM_SEEDS else body.seed,
        repetition_penalty=body.repeat_penalty,
        logit_bias=_bias(body.logit_bias or (), tokenizer),
        grammar=body.grammar or None,
        structured_outputs=None if schema is None else StructuredOutputs(json=schema),
        **{name: getattr(body, name) for name in _SAME},
    )


def generation_settings(body: NativeBody, context_length: int, model: str) -> dict[str, Any]:
    """What an answer, /props and /slots say about how tokens are chosen."""
    settings = {name: getattr(body, name) for name in _SETTINGS}
    return {
        **settings,
        "grammar": body.grammar or "",
        "max_tokens": body.n_predict,
        "n_ctx": context_length,
        "model": model,
    }


def _bias(given: Any, tokenizer: Tokenizer) -> dict[str, float]:
    """By token id; a text stands for each of its tokens, `false` for never."""
    found: dict[str, float] = {}
    for key, value in given.items() if isinstance(given, dict) else given:
        amount = float(value)
        if isinstance(value, bool):
            if value:
                raise ApiError(
                    400,
                    "logit_bias: a value is a number, or false for never; got true",
                    param="logit_bias",
                    code="invalid_value",
                )
            amount = -MAX_BIAS
        is_id = isinstance(key, int) or (isinstance(given, dict) and key.isdigit())
        for token in [key] if is_id else tokenizer.encode(key, add_bos=False):
            found[str(token)] = amount
    return found
