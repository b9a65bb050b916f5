"""The engine's own thread: steps it, feeds it requests, and hands on what each step gave.

Commands go in through a queue, events come out through one `post` call per step, never per token.
Commands and events are plain data, so that the same traffic can later cross a process border. The
thread knows nothing of HTTP, text or asyncio.

An engine that raises is finished: its traceback is logged, `Died` is posted, the thread ends.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enginebench.errors import BenchError
from enginebench_openai.capabilities import CacheFiles, DeviceEngine, SlottedEngine
from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    GenerationRequest,
    TimedEngine,
    TokenEngine,
    TokenOutput,
)

__all__ = [
    "CacheAction",
    "CacheFiled",
    "Died",
    "EngineThread",
    "Event",
    "FileCache",
    "Refused",
    "Started",
    "Stepped",
]

CacheAction = Literal["save", "restore", "erase"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """The engine is built; requests may come. `device_bytes`: of accelerators' memory."""

    context_length: int
    features: frozenset[Feature] = frozenset()
    slots: int | None = None
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one step gave."""

    outputs: Sequence[TokenOutput]


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine can never serve this request."""

    request_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """The engine raised while it was built or stepped; nothing follows."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class FileCache:
    """A command: keep the prompt cache in a file, fill it from one, or erase it (no path)."""

    ticket: str
    action: CacheAction
    path: str


@dataclass(frozen=True, slots=True)
class CacheFiled:
    """What became of a `FileCache`: the number of tokens, or why not."""

    ticket: str
    tokens: int
    error: str | None = None


Event = Started | Stepped | Refused | CacheFiled | Died


@dataclass(frozen=True, slots=True)
class _Abort:
    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


Command = GenerationRequest | FileCache | _Abort | _Stop


class EngineThread:
    """Runs one engine. `post` is called from the engine's thread and must not block; so is
    `on_stats`, after steps that changed them.
    """

    def __init__(
        self,
        build: Callable[[], TokenEngine],
        post: Callable[[Event], None],
        *,
        on_stats: Callable[[EngineStats], None] = lambda stats: None,
    ) -> None:
        self._build, self._post, self._on_stats = build, post, on_stats
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.stats: EngineStats | None = None  # as of the last step; replaced, never changed

    def start(self) -> None:
        """Build the engine and begin; `Started` or `Died` tells how it went."""
        self._thread.start()

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """Queue requests, from any thread."""
        for request in requests:
            self._commands.put(request)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests before the next step begins, from any thread."""
        self._commands.put(_Abort(tuple(request_ids)))

    def file_cache(self, command: FileCache) -> None:
        """Save or restore the prompt cache between steps; `CacheFiled` tells how it went."""
        self._commands.put(command)

    def own_bytes(self) -> int | None:
        """Unknown: it shares its process."""
        return None

    def stop(self, timeout_s: float) -> bool:
        """Close the engine after the step it is in; False if that took longer than allowed."""
        self._commands.put(_Stop())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    async def close(self, timeout_s: float) -> bool:
        """`stop`, from an event loop."""
        return await asyncio.to_thread(self.stop, timeout_s)

    def _run(self) -> None:
        try:
            with closing(self._build()) as engine:
                self._post(_started(engine))
                self._serve(engine)
        except BenchError as error:  # says what to do by itself
            self._post(Died(error))
        except BaseException as error:
            logger.exception("the engine failed")
            self._post(Died(error))

    def _serve(self, engine: TokenEngine) -> None:
        timed = engine if isinstance(engine, TimedEngine) else None
        while True:
            wait_s: float | None = None
            if engine.has_work():
                wait_s = timed.due_in_s() if timed else 0.0
            for command in self._take(wait_s):
                if isinstance(command, _Stop):
                    return
                self._obey(engine, command)
            if engine.has_work():
                outputs = engine.step()
                self._note(engine.stats())
                if outputs:
                    self._post(Stepped(outputs))
            else:
                self._note(engine.stats())

    def _note(self, stats: EngineStats) -> None:
        if stats != self.stats:
            self.stats = stats
            self._on_stats(stats)

    def _take(self, wait_s: float | None) -> Iterator[Command]:
        """All commands there are; waits for the first as long as told (None: for ever)."""
        commands = self._commands
        if commands.empty() and (wait_s is None or wait_s > 0):
            try:
                yield commands.get(timeout=wait_s)
            except queue.Empty:
                return
        while not commands.empty():
            yield commands.get()

    def _obey(self, engine: TokenEngine, command: GenerationRequest | FileCache | _Abort) -> None:
        if isinstance(command, _Abort):
            for request_id in command.request_ids:
                engine.abort(request_id)
            return
        if isinstance(command, FileCache):
            self._post(_filed(engine, command))
            return
        try:
            engine.add(command)
        except ValueError as error:
            self._post(Refused(command.request_id, str(error)))


def _started(engine: TokenEngine) -> Started:
    return Started(
        engine.context_length,
        engine.features,
        engine.slots if isinstance(engine, SlottedEngine) else None,
        engine.device_bytes if isinstance(engine, DeviceEngine) else 0,
    )


def _filed(engine: TokenEngine, command: FileCache) -> CacheFiled:
    if not isinstance(engine, CacheFiles):
        return CacheFiled(command.ticket, 0, "this engine cannot keep its cache in a file")
    if engine.has_work():
        return CacheFiled(command.ticket, 0, "the slot is busy: wait until its request has ended")
    if command.action == "erase":
        return CacheFiled(command.ticket, engine.erase_cache())
    work = engine.save_cache if command.action == "save" else engine.restore_cache
    try:
        return CacheFiled(command.ticket, work(Path(command.path)))
    except OSError as error:
        reason = f"cannot {command.action} {Path(command.path).name}: {error.strerror or error}"
        return CacheFiled(command.ticket, 0, reason)
    except ValueError as error:
        return CacheFiled(command.ticket, 0, str(error))
