"""Numbers in requests and where they may lie; what is outside is a 400 that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from enginebench_openai.errors import ApiError

__all__ = ["Ranges", "check_ranges", "out_of_range"]

# field -> (what is allowed, in words; whether a value is)
Ranges = Mapping[str, tuple[str, Callable[[float], bool]]]


def check_ranges(body: msgspec.Struct, ranges: Ranges) -> None:
    """400 for the first field whose value is outside its range."""
    for field, (allowed, fits) in ranges.items():
        value = getattr(body, field)
        if value is not None and not fits(value):
            raise out_of_range(field, value, allowed)


def out_of_range(param: str, value: object, allowed: str) -> ApiError:
    return ApiError(
        400, f"{param} must be {allowed}; got {value}", param=param, code="invalid_value"
    )
