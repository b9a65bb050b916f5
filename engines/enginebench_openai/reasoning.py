"""Reasoning apart from the answer: what stands between <think> and </think> at the beginning, or
[THINK] and [/THINK] where the model is one of Mistral's.

Models that reason write the tags as text; some templates write the first one into the prompt.

    >>> reader = ReasoningReader(THINK, inside=False)
    >>> reader.push("<think>so be it</th"), reader.push("ink>\\n\\nYes.")
    ([Reasoning(text='so be it')], [Content(text='Yes.')])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from enginebench_openai.deltas import Content, Delta, Reasoning, held_back

__all__ = ["THINK", "ReasoningReader", "ReasoningTags", "opens_reasoning", "tags_of"]


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """What stands before and after."""

    begin: str
    end: str


THINK: Final = ReasoningTags("<think>", "</think>")
_KNOWN: Final = (THINK, ReasoningTags("[THINK]", "[/THINK]"))


def tags_of(template: str) -> ReasoningTags | None:
    """Those that a chat template knows; None: its model does not reason."""
    return next((tags for tags in _KNOWN if tags.begin in template), None)


def opens_reasoning(prompt: str, tags: ReasoningTags = THINK) -> bool:
    """Whether a prompt ends inside of reasoning."""
    return prompt.rstrip().endswith(tags.begin)


class ReasoningReader:
    """`inside`: the prompt has opened the reasoning."""

    def __init__(self, tags: ReasoningTags, *, inside: bool) -> None:
        self._begin, self._end = tags.begin, tags.end
        self._mode: Literal["start", "inside", "after", "answer"] = "inside" if inside else "start"
        self._held = ""
        self._fresh = True  # nothing but white space of the reasoning was read

    def push(self, text: str) -> list[Delta]:
        """What can be told for certain."""
        self._held += text
        found: list[Delta] = []
        if self._mode == "start":
            self._open()
        if self._mode == "inside":
            found += self._think()
        if self._mode == "after":
            self._held = self._held.lstrip()
            self._mode = "answer" if self._held else "after"
        if self._mode == "answer" and self._held:
            found.append(Content(self._held))
            self._held = ""
        return found

    def finish(self) -> list[Delta]:
        """What was held back is no tag after all."""
        held, self._held = self._held, ""
        if not held or self._mode == "after":
            return []
        return [Reasoning(held) if self._mode == "inside" else Content(held)]

    def _open(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._begin):
            self._mode, self._held = "inside", begun.removeprefix(self._begin)
        elif begun and not self._begin.startswith(begun):
            self._mode = "answer"

    def _think(self) -> list[Delta]:
        if self._fresh:
            self._held = self._held.lstrip()
            self._fresh = not self._held
        thought, end, rest = self._held.partition(self._end)
        if end:
            self._mode, self._held = "after", rest
            thought = thought.rstrip()
        else:
            shown = len(thought) - held_back(thought, (self._end,))
            shown = len(thought[:shown].rstrip())  # white space before the tag is not part of it
            thought, self._held = thought[:shown], thought[shown:]
        return [Reasoning(thought)] if thought else []
