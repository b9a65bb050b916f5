"""A device that remembers, for tests of the scheduler: every schedule must give the same tokens.

`FakeDevice` stands in for runner and model. It keeps in each KV slot a digest of the whole prefix
that was written there and refuses to compute on anything else, and its next token depends on that
digest alone: a block that is leaked, shared wrongly, reused too early or hit by a false prefix
shows up at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from enginebench_openai.protocol import GenerationRequest
from enginebench_paged.scheduler import Scheduler, SchedulerConfig
from enginebench_paged.sequence import Sequence
from enginebench_paged.step import StepPlan

VOCAB = 5


def digest(parent: int, token: int) -> int:
    return hash((parent, token))


def next_token(prefix: int) -> int:
    return prefix % 7 % VOCAB


def expected(request: GenerationRequest) -> list[int]:
    """What the request yields, computed without any engine."""
    prefix = 0
    for token in request.prompt:
        prefix = digest(prefix, token)
    output: list[int] = []
    while len(output) < request.max_tokens:
        token = next_token(prefix)
        if token in request.stop_token_ids:
            break
        output.append(token)
        prefix = digest(prefix, token)
    return output


class Guesser:
    """Knows what comes, but is wrong every fifth time."""

    def __init__(self, request: GenerationRequest) -> None:
        self._text, self._request, self._guesses = 0, request, 0

    def see(self, tokens: Seq[int]) -> None:
        self._text += len(tokens)

    def propose(self, count: int) -> list[int]:
        said = self._text - len(self._request.prompt)
        right = expected(self._request)[said : said + min(count, 3)]
        self._guesses += len(right)
        return [
            (token + (self._guesses - index) % 5 // 4) % VOCAB for index, token in enumerate(right)
        ]


class FakeDevice:
    """Executes plans at launch, as a stream does; ids come back when the host asks for them."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.kv: dict[tuple[int, int], int] = {}  # (block, offset) -> digest of the prefix
        self.last_token: dict[int, int] = {}  # slot -> the token it sampled last

    def execute(self, plan: StepPlan) -> list[int]:
        assert plan.tokens == sum(piece.length for piece in plan.pieces)
        assert [piece.length == 1 for piece in plan.pieces] == [
            index < plan.decodes for index in range(len(plan.pieces))
        ]
        sampled = []
        for piece in plan.pieces:
            sequence, prefix = piece.sequence, 0
            drawn: list[int] = []
            assert piece.length == 1 + len(piece.drafts) or not piece.drafts
            assert piece.length >= 1
            for position in range(piece.start + piece.length):
                key = self._place(sequence, position)
                if position < piece.start:
                    prefix = self.kv[key]
                    continue
                known = [*sequence.tokens, *piece.drafts]
                token = known[position] if position < len(known) else self.last_token[piece.slot]
                prefix = digest(prefix, token)
                self.kv[key] = prefix
                if position >= piece.start + piece.length - piece.rows:
                    drawn.append(next_token(prefix))
            self._check_prefix(sequence, piece.start + piece.length)
            sampled += drawn
            if piece.samples:
                self.last_token[piece.slot] = drawn[-1]
        return sampled

    def _place(self, sequence: Sequence, position: int) -> tuple[int, int]:
        size = self.config.block_size
        return sequence.blocks[position // size], position % size

    def _check_prefix(self, sequence: Sequence, computed: int) -> None:
        prefix = 0
        for position, token in enumerate(sequence.tokens[:computed]):
            prefix = digest(prefix, token)
            assert self.kv[self._place(sequence, position)] == prefix


class Bench:
    """A scheduler, its device, and what came out."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.scheduler = Scheduler(config)
        self.device = FakeDevice(config)
        self.launched: list[tuple[StepPlan, list[int]]] = []
        self.outputs: dict[str, list[int]] = {}
        self.finished: dict[str, str] = {}
        self.arrivals: list[Sequence] = []

    def add(self, request: GenerationRequest) -> Sequence:
        sequence = Sequence(request, drafter=Guesser(request))
        self.scheduler.add(sequence)
        self.arrivals.append(sequence)
        self.outputs[request.request_id] = []
        return sequence

    def launch(self) -> StepPlan | None:
        plan = self.scheduler.schedule()
        if plan is not None:
            self.launched.append((plan, self.device.execute(plan)))
        return plan

    def commit(self) -> None:
        plan, ids = self.launched.pop(0)
        for sequence, tokens in self.scheduler.commit(plan, ids):
            name = sequence.request.request_id
            assert name not in self.finished
            self.outputs[name] += tokens
            if sequence.finish_reason is not None:
                self.finished[name] = sequence.finish_reason

    def run(self, ahead: int = 0, limit: int = 2000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work() and not self.launched:
                return
            plan = self.launch()
            assert plan is not None or self.launched, "nothing to compute and nothing to wait for"
            if len(self.launched) > ahead or plan is None:
                self.commit()
        raise AssertionError(f"not finished after {limit} steps: {self.scheduler.running}")


def config(**changes: object) -> SchedulerConfig:
    plain = {"num_blocks": 16, "block_size": 4, "max_batch": 4, "step_tokens": 8}
    return SchedulerConfig(**{**plain, **changes})  # type: ignore[arg-type]


def request(
    name: str, prompt: tuple[int, ...], max_tokens: int = 4, stop: str = ""
) -> GenerationRequest:
    return GenerationRequest(
        name, prompt, max_tokens, stop_token_ids=frozenset(int(digit) for digit in stop)
    )
