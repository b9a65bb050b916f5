"""Claims as data: what a claims file holds, and reading one.

    [[claim]]
    id = "runner-wins-alone"
    aspect = "1 concurrent"
    claim = "The single-stream runner is about 6% faster"

    [[claim.test]]                          # all tests of a claim must hold
    kind = "ratio"                          # or "figure", "runs"
    metric = "output_tokens_per_s"
    of = { engine = "quant" }
    over = { engine = "paged" }
    where = { users = 1, gpus = 1 }
    at_least = 1.06

Nothing is evaluated here; `claims` does that.
"""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from enginebench.errors import UsageError
from enginebench.results import ResultSet

__all__ = [
    "Claim",
    "FigureTest",
    "RatioTest",
    "RunsTest",
    "Selector",
    "Test",
    "built_in_claims",
    "chosen_claims",
    "read_claims",
]

_NUMBER = re.compile(r"(>=|<=|>|<)?\s*([0-9]+(?:\.[0-9]+)?)")


class Selector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which cells: all that is given must fit. Numbers may be written `16` or `">=16"`.

    `gpus = 0` is a cell on the CPU; `hardware` is the cell's own spelling, such as `cpu:2`.
    """

    engine: str | None = None
    model: str | None = None
    workload: str | None = None
    hardware: str | None = None
    users: int | str | None = None
    gpus: int | str | None = None
    options: dict[str, str | int | float | bool] = {}

    def __post_init__(self) -> None:
        for name in ("users", "gpus"):
            value = getattr(self, name)
            if isinstance(value, str) and not _NUMBER.fullmatch(value):
                raise ValueError(f'{name} = "{value}": must be a number, or such as ">=16"')

    def allows(self, name: Literal["users", "gpus"], value: int | None) -> bool:
        """Whether a cell's number fits; a selector that says nothing takes any, even none."""
        wanted = self.users if name == "users" else self.gpus
        if wanted is None:
            return True
        match = _NUMBER.fullmatch(str(wanted))
        assert match is not None
        if value is None:
            return False
        limit = float(match[2])
        return {
            None: value == limit,
            ">=": value >= limit,
            "<=": value <= limit,
            ">": value > limit,
            "<": value < limit,
        }[match[1]]


class _Bounded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A figure with one bound: `at_least` it, or `below` it."""

    metric: str
    of: Selector
    where: Selector = Selector()
    at_least: float | None = None
    below: float | None = None
    holds_in: Literal["all", "any"] = "all"

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.below is None):
            raise ValueError("a test has either at_least or below")


class RatioTest(_Bounded, frozen=True, tag="ratio", tag_field="kind"):
    """The metric in `of` cells over that in `over` cells of equal model, workload and load.

    Hardware must be equal too, unless `of` or `over` say something about it.
    """

    over: Selector


class FigureTest(_Bounded, frozen=True, tag="figure", tag_field="kind"):
    """The metric itself, or its share of the cell's GPU memory or of the model's size."""

    per: Literal["gpu_memory_bytes", "model_size_bytes"] | None = None


class RunsTest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="runs", tag_field="kind"
):
    """Each selector has a cell that may be believed; it fails where there are only failed ones."""

    on: tuple[Selector, ...]


Test = RatioTest | FigureTest | RunsTest


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sentence and the tests that settle it. `leaves_out` says what of it is not tested."""

    id: str
    aspect: str
    claim: str
    test: tuple[Test, ...]
    source: str = ""
    leaves_out: str = ""

    def __post_init__(self) -> None:
        if not self.test:
            raise ValueError("a claim needs at least one [[claim.test]]")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    claim: tuple[Claim, ...]


def built_in_claims() -> tuple[Claim, ...]:
    """The claims that come with enginebench."""
    return _parse(
        "the built-in claims", files(__package__).joinpath("claims.toml").read_text("utf-8")
    )


def chosen_claims(results: ResultSet) -> tuple[Claim, ...]:
    """Those of the file that the results name, else the built-in ones."""
    return read_claims(results.claims_file) if results.claims_file else built_in_claims()


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims in a file; raises UsageError that names the place of what is wrong in it."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the claims {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the claims {path} are not UTF-8 text") from None
    return _parse(str(path), text)


def _parse(name: str, text: str) -> tuple[Claim, ...]:
    try:
        claims = msgspec.convert(tomllib.loads(text), _File).claim
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise UsageError(f"{name}: {error}; docs/claims.md shows every key") from None
    ids = [claim.id for claim in claims]
    for each in ids:
        if ids.count(each) > 1:
            raise UsageError(f"{name}: two claims have the id {each!r}; ids are unique")
    return claims
