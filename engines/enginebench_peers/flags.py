"""Options as the flags of somebody else's command line.

Options of peers are named after the flags that they become, so that the project's own
documentation explains them: `cache_type_k` is `--cache-type-k`. Only what the user set is passed
on: everything else stays as that project ships it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from enginebench.errors import UsageError
from enginebench.types import OptionValue

__all__ = ["option_flags", "positive"]


def option_flags(
    options: Mapping[str, OptionValue], *, without: Collection[str] = ()
) -> Iterator[str]:
    """`--name value`, and for a bool `--name` or `--no-name`; those in `without` are left out."""
    for name, value in sorted(options.items()):
        if name in without:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}", str(value))


def positive(engine: str, name: str, value: OptionValue) -> int:
    """`value` as a count; UsageError unless it is 1 or more."""
    count = int(value)
    if count < 1:
        raise UsageError(f"{engine}.{name} is {value}; it must be 1 or more")
    return count
