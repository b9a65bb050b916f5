"""Which of a server's models are loaded: on demand, as many at once as the operator allows, by
number or by the memory that they take.

A request for a model that is not loaded waits in its front's queue. If there is no room for it,
the model that has been idle longest leaves, else the one that was used longest ago: it
finishes what it has and what waited for it by then, while later requests wait for its next turn.
So no request is dropped, and two models that are both wanted take turns. A model that nobody asked
for in a while leaves by itself, if the operator says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from enginebench.errors import BenchError
from enginebench_openai.front import DEAD, Front
from enginebench_openai.keeper import Keeper
from enginebench_openai.limits import Limits, PoolSettings
from enginebench_openai.link import MakeLink
from enginebench_openai.metrics import ServerMetrics

__all__ = ["ModelPool"]

logger = logging.getLogger(__name__)


class ModelPool:
    """The fronts of all models, by name; the first model is loaded at the start.

    `models` says how each is reached, and how many bytes its weights have. `on_started` is told
    once, when the first one is ready. `on_lost` is told when the server is of no more use: its
    first model cannot be loaded, or its only one keeps dying.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[MakeLink, int]],
        *,
        settings: PoolSettings,
        limits: Limits,
        metrics: ServerMetrics,
        on_started: Callable[[], None],
        on_lost: Callable[[BaseException], None],
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._on_started, self._on_lost = on_started, on_lost
        self._has_started = self._shutting_down = False
        self._wanted: dict[str, float] = {}  # models that wait to be loaded: since when
        self._idle_checks: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keepers = {name: self._keeper(name, *how, limits) for name, how in models.items()}
        metrics.model_bytes = lambda: {
            name: keeper.memory_bytes if keeper.front.state == "ready" else None
            for name, keeper in self._keepers.items()
        }

    @property
    def fronts(self) -> Mapping[str, Front]:
        """What takes the requests for each model."""
        return {name: keeper.front for name, keeper in self._keepers.items()}

    def start(self) -> None:
        """Load the first model."""
        next(iter(self._keepers.values())).load()

    def shut_down(self) -> None:
        """Take nothing more; what has been taken is still served."""
        self._shutting_down = True
        for keeper in self._keepers.values():
            keeper.front.shutting_down = True

    def fail_all(self, reason: str) -> None:
        """End whatever is in flight."""
        for keeper in self._keepers.values():
            keeper.front.give_up(reason)

    async def close(self) -> None:
        """End all engines."""
        await asyncio.gather(
            *self._tasks, *(keeper.shut_down() for keeper in self._keepers.values())
        )

    def _keeper(self, name: str, make_link: MakeLink, size_bytes: int, limits: Limits) -> Keeper:
        front = Front(
            self._metrics,
            limits,
            on_wanted=partial(self._want, name),
            on_empty=partial(self._has_emptied, name),
        )
        return Keeper(
            model=name,
            size_bytes=size_bytes,
            front=front,
            make_link=make_link,
            metrics=self._metrics,
            restarts=self._settings.restarts,
            on_ready=partial(self._is_ready, name),
            on_lost=partial(self._is_lost, name),
        )

    def _want(self, name: str) -> None:
        if self._keepers[name].front.state in ("unloaded", "ready"):
            self._wanted.setdefault(name, time.monotonic())
            self._make_room()

    def _make_room(self) -> None:
        """Load what is wanted where there is room; else tell somebody to leave."""
        for name in tuple(self._wanted):
            keeper = self._keepers[name]
            if keeper.holds_engine or keeper.leaving:
                continue
            holding = [one for one in self._keepers.values() if one.holds_engine or one.leaving]
            if self._fits(keeper, holding):
                keeper.load()
            elif not any(one.leaving or one.front.retiring for one in holding):
                self._retire_one(holding)

    def _fits(self, keeper: Keeper, holding: Sequence[Keeper]) -> bool:
        """Whether there is room for one more; by itself, every model has it."""
        most, memory_bytes = self._settings.max_loaded, self._settings.memory_bytes
        if not holding or (most is not None and len(holding) >= most):
            return not holding
        if memory_bytes is None:
            return True
        return sum(one.memory_bytes for one in (*holding, keeper)) <= memory_bytes

    def _shrink(self) -> None:
        """An engine took more than its weights said: somebody else has to leave."""
        memory_bytes = self._settings.memory_bytes
        holding = [one for one in self._keepers.values() if one.holds_engine or one.leaving]
        if memory_bytes is None or len(holding) < 2:
            return
        staying = [one for one in holding if not (one.leaving or one.front.retiring)]
        if sum(one.memory_bytes for one in staying) > memory_bytes:
            self._retire_one(holding)

    def _retire_one(self, holding: Sequence[Keeper]) -> None:
        candidates = [
            one for one in holding if one.front.state == "ready" and not one.front.retiring
        ]
        if not candidates:
            return
        chosen = min(candidates, key=lambda one: (not one.front.idle, one.front.last_used))
        chosen.front.retire()
        self._has_emptied(chosen.model)

    def _is_ready(self, name: str) -> None:
        asked_at = self._wanted.pop(name, None)
        if asked_at is not None:
            self._metrics.switched(time.monotonic() - asked_at)
        self._watch_idleness(name)
        self._shrink()
        self._make_room()
        if not self._has_started:
            self._has_started = True
            self._on_started()

    def _is_lost(self, name: str, error: BaseException) -> None:
        if not self._has_started or len(self._keepers) == 1:
            self._keepers[name].front.give_up(DEAD)
            self._on_lost(error)
            return
        if not isinstance(error, BenchError):
            logger.error("the model %s is given up: %s", name, error)
        self._wanted.pop(name, None)
        front = self._keepers[name].front
        front.give_up(f"the model {name!r} could not be loaded: {error}")
        front.state = "unloaded"  # the next request tries again
        self._make_room()

    def _has_emptied(self, name: str) -> None:
        keeper = self._keepers[name]
        front = keeper.front
        if front.retiring and front.idle and keeper.holds_engine:
            self._unload(keeper)
        elif not front.in_flight:
            self._watch_idleness(name)

    def _unload(self, keeper: Keeper) -> None:
        task = asyncio.get_running_loop().create_task(self._leave(keeper))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _leave(self, keeper: Keeper) -> None:
        if keeper.leaving or keeper.front.state != "ready" or not keeper.front.idle:
            return
        await keeper.unload()
        if keeper.front.wants_engine:
            self._wanted.setdefault(keeper.model, time.monotonic())
        self._make_room()

    def _watch_idleness(self, name: str) -> None:
        timeout_s = self._settings.idle_timeout_s
        if timeout_s is None or name in self._idle_checks:
            return
        front = self._keepers[name].front
        self._idle_checks.add(name)
        left_s = max(0.0, front.last_used + timeout_s - time.monotonic())
        asyncio.get_running_loop().call_later(left_s, self._check_idleness, name)

    def _check_idleness(self, name: str) -> None:
        self._idle_checks.discard(name)
        keeper, timeout_s = self._keepers[name], self._settings.idle_timeout_s
        front = keeper.front
        if timeout_s is None or self._shutting_down or front.in_flight or front.state != "ready":
            return
        if time.monotonic() - front.last_used >= timeout_s:
            front.retire()
            self._unload(keeper)
        else:
            self._watch_idleness(name)
