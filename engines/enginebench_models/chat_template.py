"""Chat messages to prompt text through the model's own jinja template, in a sandbox.

The environment is the one that model authors write for (that of Hugging Face transformers):
trimmed blocks, `break`/`continue`, `tojson`, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from enginebench.errors import UsageError

__all__ = ["ChatTemplate", "ChatTemplateError"]

# What a template's own expressions can raise.
_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

MAX_PRODUCT = 10_000_000  # characters or elements of a repetition, or a number
MAX_POWER = 1000


class ChatTemplateError(UsageError):
    """A template that cannot be read, or that refuses the messages it was given."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template's source and the texts of special tokens that it may print (`bos_token` ...)."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation; further `variables` (tools ...) reach the template.

        Encode it with `add_bos=False, parse_special=True`: a template prints its own BOS.
        """
        try:
            return self._template.render(
                **self.special_tokens,
                **variables,
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
            )
        except _TEMPLATE_FAILURES as error:
            raise ChatTemplateError(f"the chat template refused the messages: {error}") from error

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template is broken: {error}") from error


class _Environment(ImmutableSandboxedEnvironment):
    """Also bounds what one operation may make: a template must not fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse repetitions and powers beyond any use."""
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise jinja2.TemplateError(f"{left!r:.40} ** {right!r:.40} is too large")
        sizes = [len(one) if hasattr(one, "__len__") else one for one in (left, right)]
        if operator == "*" and (sizes[0] or 0) * (sizes[1] or 0) > MAX_PRODUCT:
            raise jinja2.TemplateError("a product is too large for a chat template")
        return super().call_binop(context, operator, left, right)


def _is_small(number: Any) -> bool:
    return isinstance(number, int | float) and abs(number) <= MAX_POWER


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON as it is, where jinja's own filter would escape HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
