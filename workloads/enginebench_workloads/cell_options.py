"""The options of one cell's workload, checked: errors name the option and say what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginebench.errors import UsageError
from enginebench.types import Cell, ModelInfo, Option, OptionValue
from enginebench_workloads.distribution import Distribution

__all__ = ["CellOptions", "check_context"]


class CellOptions:
    """What `--set WORKLOAD.OPTION=VALUE` gave, the defaults for the rest."""

    def __init__(self, options: Sequence[Option], name: str, given: Mapping[str, OptionValue]):
        self._name = name
        self._values = {option.name: option.default for option in options} | dict(given)

    @classmethod
    def of(cls, options: Sequence[Option], cell: Cell) -> CellOptions:
        return cls(options, cell.workload.name, cell.workload.options)

    def text(self, name: str) -> str:
        """Raises UsageError if there is none."""
        value = self._values[name]
        if not isinstance(value, str) or not value:
            raise UsageError(
                f"the workload {self._name} needs an option: add --set {self._name}.{name}=VALUE"
            )
        return value

    def optional_text(self, name: str) -> str | None:
        """None if there is none."""
        value = self._values[name]
        return str(value) if value else None

    def distribution(self, name: str) -> Distribution:
        """A distribution of lengths."""
        try:
            return Distribution.parse(self.text(name))
        except ValueError as error:
            raise self.bad(name, str(error)) from None

    def integer(self, name: str, *, least: int) -> int:
        """A whole number of `least` or more."""
        value = self._values[name]
        assert isinstance(value, int), f"{name} is an option of type int with a default"
        if value < least:
            raise self.bad(name, f"must be at least {least}")
        return value

    def number(self, name: str, *, least: float, most: float | None = None) -> float | None:
        """A number in the range, or None where the option has no default."""
        value = self._values[name]
        if value is None:
            return None
        assert isinstance(value, int | float), f"{name} is an option of type float"
        if value < least or (most is not None and value > most):
            allowed = f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"
            raise self.bad(name, f"must be {allowed}")
        return float(value)

    def truth(self, name: str) -> bool:
        """A switch."""
        return bool(self._values[name])

    def bad(self, name: str, why: str) -> UsageError:
        """The error for the value of that option."""
        return UsageError(f"workload option {self._name}.{name}={self._values[name]}: {why}")


def check_context(model: ModelInfo, input_tokens: int, output_tokens: int, where: str) -> None:
    """Raises UsageError if prompt and answer do not fit; `where` says whose they are."""
    context, needed = model.context_length, input_tokens + output_tokens
    if context is not None and needed > context:
        raise UsageError(
            f"{where}: input_tokens={input_tokens} and output_tokens={output_tokens} need a "
            f"context of {needed} tokens, but {model.name} has {context}: lower one of them"
        )
