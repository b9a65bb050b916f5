"""Continuous batching: decides, step by step, who computes what, and accounts for the blocks.

Rules, in the order in which they matter:

1. First come, first served. The running sequences are always the oldest of all that are unfinished.
2. Running sequences decode first, one token each; prefills share what is left of the token
   budget in chunks; then new sequences are admitted while slots, budget and blocks last.
3. A sequence is admitted when the blocks of all its tokens so far are there, with one to spare
   for each running one. Only decoding asks for blocks later. When none is left, the newest running
   sequence is preempted: its blocks go back and it is computed again later (recompute, not swap).
   With a prefix cache, a prompt equal to one that is just being computed waits for that one.

The oldest sequence can hence always go on, and no pool is too small for a request that `add` took.

Without chunked prefill a step either computes whole prompts or decodes, prompts first.

Where sequences have someone to guess their next tokens, a decode computes the guesses too, as far
as the step's budget, its rows of logits and blocks that nobody will miss allow. Drawn tokens that
agree are kept, with the one after them; what lies in the cache behind them is written over. Blocks
that wrong guesses took stay: the sequence is about to need them.

Knows no tensors: it works on lengths and learns token ids when `commit` brings them, which may be
one step after the next one was planned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import islice

from enginebench_openai.protocol import FinishReason
from enginebench_paged.blocks import BlockPool, chain_hash
from enginebench_paged.sequence import Sequence
from enginebench_paged.step import Piece, StepPlan

__all__ = ["Scheduler", "SchedulerConfig", "SchedulerCounters"]

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits. `step_tokens` is the budget of positions computed in one step.

    `reserved_tokens`: what every sequence holds blocks for from its start to its end, used or not,
    as a cache without paging does; None: it gets blocks as it grows. `sampled_rows`: tokens drawn
    in a step, at most; None: one for each running sequence, and no guesses are verified.
    """

    num_blocks: int
    block_size: int
    max_batch: int
    step_tokens: int
    prefix_cache: bool = True
    chunked_prefill: bool = True
    reserved_tokens: int | None = None
    sampled_rows: int | None = None

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.max_batch < 1:
            raise ValueError(
                f"block_size ({self.block_size}) and max_batch ({self.max_batch}) start at 1"
            )
        if self.step_tokens < self.max_batch:
            raise ValueError(
                f"step_tokens ({self.step_tokens}) is less than max_batch ({self.max_batch}): each"
                " running request needs a token of each step; raise step_tokens or lower max_batch"
            )


@dataclass(slots=True)
class SchedulerCounters:
    """Totals since the start; they only grow."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    queried_tokens: int = 0
    hit_tokens: int = 0
    preemptions: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


class Scheduler:
    """Owns the sequences and the block pool. Call `schedule`, compute, `commit`, in this order.

    A second `schedule` may come before the first `commit` (schedule-ahead); commits come in the
    order of the plans.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks, prefix_cache=config.prefix_cache)
        self.counters = SchedulerCounters()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self._sequences: dict[str, Sequence] = {}
        self._free_slots = list(range(config.max_batch - 1, -1, -1))

    @property
    def slots(self) -> tuple[int, int]:
        """Tokens that the blocks of running sequences have room for, and those computed of them;
        a shared block counts once for each of its holders.
        """
        held = sum(len(sequence.blocks) for sequence in self.running) * self.config.block_size
        return held, sum(sequence.computed for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; ValueError if it can never run."""
        name, request = sequence.request.request_id, sequence.request
        if name in self._sequences:
            raise ValueError(f"request id {name!r} is in use by an unfinished request")
        if not request.prompt or request.max_tokens < 1:
            raise ValueError(f"request {name!r} needs a prompt and max_tokens of at least 1")
        needed = self._blocks_for(self._held(sequence.max_length - 1))  # the last: never computed
        if needed > self.pool.num_blocks:
            raise ValueError(
                f"request {name!r} needs {needed} KV blocks of {self.config.block_size} tokens"
                f" ({len(request.prompt)} prompt + {request.max_tokens} new), the pool has"
                f" {self.pool.num_blocks}; shorten it or give the engine more KV memory"
            )
        self._sequences[name] = sequence
        self.waiting.append(sequence)

    def abort(self, request_id: str) -> None:
        """Drop a sequence wherever it is; ids that are unknown or finished are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "abort")

    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self._sequences)

    def schedule(self) -> StepPlan | None:
        """Plan the next step and account for it as done; None if nothing can be computed now."""
        if self.config.chunked_prefill:
            pieces, admitted = self._mixed_step()
        else:
            pieces, admitted = self._separate_step()
        if not pieces:
            return None
        for piece in pieces:
            piece.sequence.computed += piece.length - len(piece.drafts)
            piece.sequence.in_flight += piece.samples
            piece.sequence.verifying = bool(piece.drafts)
        pieces.sort(key=lambda piece: piece.length > 1)  # stable: oldest first within each kind
        decodes = sum(piece.length == 1 for piece in pieces)
        return StepPlan(tuple(pieces), decodes, tuple(admitted))

    def commit(self, plan: StepPlan, token_ids: Seq[int]) -> list[tuple[Sequence, Tokens]]:
        """Take in the ids that `plan` sampled: those of each of its sampling pieces, in order.

        Returns each unfinished sequence with its new tokens (none: a stop token came, which is not
        part of the output); `finish_reason` of the sequence says whether those were its last.
        """
        outputs, drawn = [], iter(token_ids)
        for piece in plan.pieces:
            tokens = list(islice(drawn, piece.rows))
            if piece.samples and piece.sequence.finish_reason is None:
                outputs.append((piece.sequence, self._accept(piece, tokens)))
        for piece in plan.pieces:
            self._register(piece.sequence)
            if piece.sequence.finish_reason is not None:
                self._free(piece.sequence)
        return outputs

    # ------------------------------------------------------------ planning

    def _mixed_step(self) -> tuple[list[Piece], list[Sequence]]:
        preemptions = self.counters.preemptions
        pieces = self._decodes()
        budget = self.config.step_tokens - len(pieces)
        for sequence in self.running:
            if sequence.todo > 1 and budget > 0:
                pieces.append(_piece(sequence, budget))
                budget -= pieces[-1].length
        if self.counters.preemptions > preemptions:
            return pieces, []
        admitted = []
        while budget > 0 and (newcomer := self._admit_next()) is not None:
            admitted.append(newcomer)
            pieces.append(_piece(newcomer, budget))
            budget -= pieces[-1].length
        return pieces, admitted

    def _separate_step(self) -> tuple[list[Piece], list[Sequence]]:
        pieces: list[Piece] = []
        budget = self.config.step_tokens
        while (sequence := self._admit_next(budget if pieces else None)) is not None:
            pieces.append(_piece(sequence, sequence.todo))
            budget -= pieces[-1].length
        if pieces:
            return pieces, [piece.sequence for piece in pieces]
        return self._decodes(), []

    def _decodes(self) -> list[Piece]:
        """A piece for each running sequence that is one position short of its next token."""
        pieces = []
        for sequence in list(self.running):
            if sequence.slot is not None and sequence.todo == 1 and self._grow(sequence):
                pieces.append(_piece(sequence, 1))
        self._add_drafts(pieces)
        return pieces

    def _add_drafts(self, pieces: list[Piece]) -> None:
        """Let decodes verify guesses in what this step has to spare, the oldest first."""
        rows = self.config.sampled_rows
        if rows is None:
            return
        drawing = len(self.running) + min(len(self.waiting), len(self._free_slots))
        room = min(rows - drawing, self.config.step_tokens - len(pieces))
        for index, piece in enumerate(pieces):
            drafts = self._drafts(piece.sequence, room)
            pieces[index] = replace(piece, length=1 + len(drafts), drafts=drafts)
            room -= len(drafts)

    def _drafts(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """Guesses with blocks for them; the last token of a sequence is never computed."""
        spare = max(0, self.pool.free_count - len(self.running))
        held = (len(sequence.blocks) + spare) * self.config.block_size
        last = min(sequence.max_length - 1, held)
        drafts = sequence.propose(min(room, last - sequence.length))
        missing = self._blocks_for(sequence.length + len(drafts)) - len(sequence.blocks)
        sequence.blocks += self.pool.allocate(max(0, missing))
        return drafts

    def _grow(self, sequence: Sequence) -> bool:
        """Give it the block of its next position; False if it was the newest and had to go."""
        missing = self._blocks_for(self._held(sequence.length)) - len(sequence.blocks)
        while self.pool.free_count < missing:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += self.pool.allocate(missing)
        return True

    def _admit_next(self, budget: int | None = None) -> Sequence | None:
        """Let the head of the queue run if it fits (and needs at most `budget` tokens)."""
        if not self.waiting or not self._free_slots or self.waiting[0].in_flight:
            return None
        sequence = self.waiting[0]
        hits = self._acquire_hits(sequence)
        cached = len(hits) * self.config.block_size
        missing = self._blocks_for(self._held(sequence.length)) - len(hits)
        too_long = budget is not None and sequence.length - cached > budget
        too_many = missing + len(self.running) > self.pool.free_count
        if too_long or too_many or self._twin_is_computing(sequence, len(hits)):
            self.pool.release(hits)
            return None
        self.waiting.popleft()
        self.running.append(sequence)
        sequence.blocks = hits + self.pool.allocate(missing)
        sequence.computed = cached
        sequence.registered = len(hits)
        sequence.slot = self._free_slots.pop()
        self._count_admission(sequence, cached)
        return sequence

    def _acquire_hits(self, sequence: Sequence) -> list[int]:
        """Hold the cached blocks of its prefix, never of its last token: that is computed."""
        if not self.config.prefix_cache or sequence.needs_all_positions:
            return []
        self._extend_hashes(sequence)
        return self.pool.acquire_prefix(
            sequence.hashes[: (sequence.length - 1) // self.config.block_size]
        )

    def _twin_is_computing(self, sequence: Sequence, n_hits: int) -> bool:
        """Whether a running sequence with the same prompt is about to offer it to the cache: the
        choices of one request wait a step or two for the first of them.
        """
        if not self.config.prefix_cache or sequence.needs_all_positions:
            return False
        last = (sequence.prompt_length - 1) // self.config.block_size - 1
        if n_hits > last:
            return False
        return any(
            len(other.hashes) > last
            and other.hashes[last] == sequence.hashes[last]
            and other.registered <= last
            for other in self.running
        )

    def _count_admission(self, sequence: Sequence, cached: int) -> None:
        if sequence.admitted:
            return
        sequence.admitted = True
        sequence.cached_prompt_tokens = cached
        self.counters.prompt_tokens += sequence.prompt_length
        if self.config.prefix_cache:
            self.counters.queried_tokens += sequence.prompt_length
            self.counters.hit_tokens += cached

    def _preempt(self, sequence: Sequence) -> None:
        self.counters.preemptions += 1
        self._leave(sequence)
        self.waiting.appendleft(sequence)

    # ------------------------------------------------------------ taking in what was computed

    def _accept(self, piece: Piece, drawn: Seq[int]) -> Tokens:
        """Keep what was drawn after right guesses, and what of the cache belongs to it."""
        sequence = piece.sequence
        sequence.in_flight -= 1
        sequence.verifying = False
        wrong = (index for index, token in enumerate(piece.drafts) if token != drawn[index])
        right = next(wrong, len(piece.drafts))
        self.counters.draft_tokens += len(piece.drafts)
        self.counters.accepted_tokens += right
        if sequence.slot is not None:  # else preempted meanwhile: nothing of it is in the cache
            sequence.computed += right
        kept: list[int] = []
        for token in drawn[: right + 1]:
            if (
                sequence.finish_reason is None
                and (said := self._append(sequence, token)) is not None
            ):
                kept.append(said)
        return tuple(kept)

    def _append(self, sequence: Sequence, token: int) -> int | None:
        if token in sequence.request.stop_token_ids or sequence.request.pooling is not None:
            sequence.finish_reason = "stop"
            return None
        sequence.tokens.append(token)
        self.counters.generated_tokens += 1
        if sequence.matcher is not None:
            sequence.matcher.accept(token)
            if sequence.matcher.finished:
                sequence.finish_reason = "stop"
                return token
        if len(sequence.tokens) == sequence.max_length:
            sequence.finish_reason = "length"
        return token

    def _register(self, sequence: Sequence) -> None:
        """Offer to the prefix cache what is full, computed and known by its tokens."""
        size = self.config.block_size
        full = min(sequence.computed, len(sequence.tokens)) // size
        if not self.config.prefix_cache or full <= sequence.registered:
            return
        self._extend_hashes(sequence)
        for index in range(sequence.registered, full):
            self.pool.register(sequence.blocks[index], sequence.hashes[index])
        sequence.registered = full

    def _extend_hashes(self, sequence: Sequence) -> None:
        size, hashes, tokens = self.config.block_size, sequence.hashes, sequence.tokens
        for index in range(len(hashes), len(tokens) // size):
            parent = hashes[-1] if hashes else b""
            hashes.append(chain_hash(parent, tokens[index * size : (index + 1) * size]))

    # ------------------------------------------------------------ leaving

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self._free(sequence)

    def _free(self, sequence: Sequence) -> None:
        """Take a finished sequence out of all books; a second time does nothing."""
        name = sequence.request.request_id
        if self._sequences.get(name) is not sequence:
            return
        del self._sequences[name]
        if sequence.slot is not None:
            self._leave(sequence)
        else:
            self.waiting.remove(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Give slot and blocks back. What it has in flight comes before their next use."""
        assert sequence.slot is not None
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        self.pool.release(sequence.blocks)
        sequence.slot = None
        sequence.blocks = []
        sequence.computed = sequence.registered = 0

    def _held(self, tokens: int) -> int:
        """For how many tokens a sequence of `tokens` holds blocks."""
        return max(tokens, self.config.reserved_tokens or 0)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)


def _piece(sequence: Sequence, budget: int) -> Piece:
    assert sequence.slot is not None
    length = min(sequence.todo, budget)
    return Piece(sequence, sequence.slot, sequence.computed, length, length == sequence.todo)
