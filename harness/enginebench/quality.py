"""How well a model predicts a text, kept beside the speed figures of a Run.

`bench perplexity MODEL FILE --into RUN` writes it, a file for each measurement, into the Run's
folder `quality`; measured again in the same way, it takes the place of what was there. Reports show
all of them. Knows no engine: who computes the logits says how in `computed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from enginebench.atomic import write_json
from enginebench.errors import DamagedError

__all__ = ["Distance", "Quality", "read_quality", "write_quality"]

_FOLDER = "quality"


@dataclass(frozen=True, slots=True)
class Distance:
    """From the predictions of another model, `model`, of the same text: nats a token, and the share
    of tokens for which both find the same one most likely.
    """

    model: str
    perplexity: float
    kl_nats: float
    kl_nats_error: float
    same_top_share: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Perplexity with its standard error, over `scored` tokens of `text` (a file's name)."""

    model: str
    text: str
    computed: str
    context: int
    scored: int
    perplexity: float
    perplexity_error: float
    distance: Distance | None = None

    @property
    def sentence(self) -> str:
        """All of it, for a report."""
        said = (
            f"`{self.model}` predicts {self.text} with perplexity {self.perplexity:.4g} ± "
            f"{self.perplexity_error:.2g} ({self.scored:,} tokens in windows of {self.context}, "
            f"{self.computed})"
        )
        other = self.distance
        if other is None:
            return f"{said}."
        change = self.perplexity / other.perplexity - 1
        return (
            f"{said}, {abs(change):.2%} {'above' if change >= 0 else 'below'} that of "
            f"`{other.model}`; KL divergence {other.kl_nats:.3g} ± {other.kl_nats_error:.1g} nats "
            f"a token, the same most likely token in {other.same_top_share:.1%}."
        )


def write_quality(run: Path, found: Quality) -> Path:
    """Keep it in the Run folder `run`, which must be one."""
    against = found.distance.model if found.distance else ""
    facts = "\n".join((found.model, found.text, found.computed, str(found.context), against))
    name = hashlib.sha256(facts.encode()).hexdigest()[:16]
    folder = run / _FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{name}.json", found)
    return folder / f"{name}.json"


def read_quality(run: Path) -> Sequence[Quality]:
    """What was kept, by model; DamagedError for a file that holds something else."""
    found = [_read(path) for path in sorted((run / _FOLDER).glob("*.json"))]
    return sorted(found, key=lambda one: (one.text, one.model, one.computed))


def _read(path: Path) -> Quality:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Quality)
    except (OSError, msgspec.MsgspecError) as error:
        raise DamagedError(f"cannot read {path}: {error}; delete it, or measure again") from error
