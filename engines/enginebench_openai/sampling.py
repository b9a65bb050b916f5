"""How the next token is chosen: `SamplingParams`, plain data that crosses the process border.

The order in which an engine applies them:

    logit bias, min_tokens and grammar (they forbid or push tokens) -> penalties, DRY
    -> temperature (or dynamic temperature) -> top-k -> typical-p -> top-p -> min-p -> XTC

Mirostat takes the place of everything after the temperature. Everything is off at its default.
An engine that knows only the basic fields says so in its `features`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Dry", "DynamicTemperature", "Mirostat", "SamplingParams", "Xtc"]


@dataclass(frozen=True, slots=True)
class DynamicTemperature:
    """Entropy-based: between `temperature - range` and `temperature + range` (at least 0), by the
    entropy of the distribution relative to its maximum, raised to `exponent`."""

    range: float
    exponent: float = 1.0


@dataclass(frozen=True, slots=True)
class Xtc:
    """Exclude top choices: with `probability`, drop all tokens at or above `threshold` but the
    least likely one of them."""

    probability: float
    threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class Dry:
    """Don't repeat yourself: a token that would continue a repetition of length n loses
    `multiplier * base ** (n - allowed_length)`.

    `penalty_last_n` is how far back repetitions are sought (None: the whole context). `breakers`
    are the tokens across which no repetition is followed: all whose text contains one of the
    strings that the request named.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    penalty_last_n: int | None = None
    breakers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Mirostat:
    """Mirostat 2 (arXiv 2007.14966): surprise is steered to `tau` bits at the rate `eta`."""

    tau: float = 5.0
    eta: float = 0.1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. `temperature` 0 is greedy and ignores the filters.

    Order: penalties, temperature, top-k, top-p, min-p (each off at its default).
    `repetition_penalty` is that of CTRL (arXiv 1909.05858), `presence_penalty` and
    `frequency_penalty` are OpenAI's. `seed` None draws a fresh one. `logit_bias` is added to the
    logits of (token id, bias) before anything else; ids are unique and in the vocabulary.
    `penalty_last_n` (at least 1) is how far back the three penalties look; None: all of it.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    typical_p: float = 1.0
    dynamic_temperature: DynamicTemperature | None = None
    xtc: Xtc | None = None
    dry: Dry | None = None
    mirostat: Mirostat | None = None
    penalty_last_n: int | None = None
