"""The `conversations` workload: users who ask, read, think, and ask again.

Each turn sends the whole history, with what was really answered, so prompts grow and begin as the
one before did: what a prefix cache is made for. In a closed loop a user has one conversation after
another. In an open loop conversations begin by the schedule, at such a rate that turns come at the
rate asked for; a later turn is due when its user has thought, which depends on the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from enginebench.errors import UsageError
from enginebench.types import Cell, Message, ModelInfo, Option, Request
from enginebench_workloads.answer_fields import JSON_SCHEMA_OPTION, answer_fields
from enginebench_workloads.cell_options import CellOptions
from enginebench_workloads.demand import LOAD_OPTIONS, conversation_starts, ramped
from enginebench_workloads.dialogue import Turn, as_requests
from enginebench_workloads.distribution import WRITTEN, Distribution
from enginebench_workloads.prompts import words
from enginebench_workloads.thinking import THINK_OPTIONS, Thinking

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ConversationsWorkload"]

MOST_TRIES = 200
TURN_OVERHEAD_TOKENS = 16
"""What chat templates may add around a message and its answer."""


class ConversationsWorkload:
    """Chats of `turns` turns; English words, answers exact and greedy."""

    name = "conversations"
    summary = "Chats of several turns: each sends the history with the real answers, after a pause"
    options: Sequence[Option] = (
        Option("turns", str, "4", f"turns of a conversation: {WRITTEN}"),
        Option("input_tokens", str, "lognormal:64:48", f"length of what a user says: {WRITTEN}"),
        Option("output_tokens", str, "lognormal:96:64", f"length of an answer: {WRITTEN}"),
        Option("system_tokens", int, 0, "length of a system prompt, the same in all conversations"),
        *THINK_OPTIONS,
        JSON_SCHEMA_OPTION,
        *LOAD_OPTIONS,
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`. Warm-up requests are conversations of one turn.

        Raises UsageError for distributions that cannot be read or hardly ever fit the context.
        """
        chosen = CellOptions.of(self.options, cell)
        lengths = _Lengths.of(chosen, model)
        starts = conversation_starts(cell, chosen, lengths.output.mean, lengths.turns.mean)
        drawn = _conversations(cell, chosen, lengths)
        return ramped(list(as_requests(drawn, starts, answer_fields(chosen))), cell, chosen)


class _Lengths:
    """Draws how long everything in a conversation is, such that the model's context holds it."""

    def __init__(
        self,
        turns: Distribution,
        said: Distribution,
        output: Distribution,
        system: int,
        model: ModelInfo,
    ) -> None:
        self.turns, self.said, self.output, self.system = turns, said, output, system
        self._model = model

    @classmethod
    def of(cls, chosen: CellOptions, model: ModelInfo) -> _Lengths:
        return cls(
            chosen.distribution("turns"),
            chosen.distribution("input_tokens"),
            chosen.distribution("output_tokens"),
            chosen.integer("system_tokens", least=0),
            model,
        )

    def draw(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """What is said and answered, turn by turn; what does not fit is drawn again."""
        context = self._model.context_length
        for _ in range(MOST_TRIES):
            turns = max(1, self.turns.draw(rng, 1)[0])
            said = [max(1, length) for length in self.said.draw(rng, turns)]
            answered = [max(1, length) for length in self.output.draw(rng, turns)]
            whole = self.system + sum(said) + sum(answered) + turns * TURN_OVERHEAD_TOKENS
            if context is None or whole <= context:
                return list(zip(said, answered, strict=True))
        raise UsageError(
            f"workload conversations: hardly any fits {self._model.name}'s context of {context} "
            "tokens: lower conversations.turns, input_tokens, output_tokens or system_tokens"
        )


def _conversations(cell: Cell, chosen: CellOptions, lengths: _Lengths) -> Iterator[Sequence[Turn]]:
    """Without end; the warm-up ones, which come first, end after a turn."""
    import numpy as np

    rng, thinking = np.random.default_rng(cell.seed), Thinking.of(chosen)
    system = words(rng, lengths.system)
    before = (Message("system", " ".join(system)),) if system else ()
    number = 0
    while True:
        drawn = lengths.draw(rng)
        drawn = drawn[:1] if number < cell.budget.warmup_requests else drawn
        pauses_s = thinking.draw(rng, len(drawn))
        said = [Message("user", " ".join(words(rng, length))) for length, _ in drawn]
        yield [
            Turn((*(before if at == 0 else ()), said[at]), answer, pauses_s[at])
            for at, (_, answer) in enumerate(drawn)
        ]
        number += 1
