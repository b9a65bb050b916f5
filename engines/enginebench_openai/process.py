"""The running server: uvicorn, the engine's thread or process, the front, and how all of it ends.

SIGTERM, SIGINT -> no new connections -> drain -> engine closed -> 0
a second signal -> requests in flight end with an error at once
engine died     -> requests in flight end with an error, /health 503 -> 1
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn
import uvloop

from enginebench.errors import BenchError
from enginebench_openai.app import build_app
from enginebench_openai.engine_process import EngineProcess
from enginebench_openai.front import Front
from enginebench_openai.loop import EngineThread, Event
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.protocol import TokenEngine
from enginebench_openai.served import Served

if TYPE_CHECKING:
    from enginebench_models import ChatTemplate, Tokenizer

__all__ = ["ServerProcess"]

logger = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 120  # longer than clients keep idle connections, so that they close first
OBITUARY_S: Final = 1.0  # how long a server whose engine died still answers, with 503
CLOSE_ENGINE_S: Final = 10.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(kw_only=True)
class ServerProcess:
    """Serves until told to stop. `on_ready` is called once, when requests are taken.

    `engine` is a process that builds it already, or what builds it in a thread of this one.
    """

    name: str
    vocab_size: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    engine: Callable[[], TokenEngine] | EngineProcess
    listener: socket.socket
    on_ready: Callable[[], None]
    api_key: str | None = None
    max_body_bytes: int = 16 * 2**20
    drain_s: float = 30.0

    def run(self) -> int:
        """Serve; the exit code. A BenchError that the engine raised while it was built passes."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run())

    def stop(self) -> None:
        """What SIGTERM does; from any thread, once `run` has begun to serve."""
        self._loop.call_soon_threadsafe(self._on_signal)

    async def _run(self) -> int:
        loop = self._loop = asyncio.get_running_loop()
        self._death: BaseException | None = None
        metrics = ServerMetrics()
        self._front = Front(metrics, on_started=self.on_ready, on_died=self._mourn)

        served = Served(
            name=self.name,
            vocab_size=self.vocab_size,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            front=self._front,
            metrics=metrics,
            max_body_bytes=self.max_body_bytes,
        )
        self._server = _Server(self._config(served))
        engine = await self._link(loop)  # events may come from here on
        self._front.link = engine
        metrics.engine_stats = lambda: engine.stats
        with _signals_to(self._on_signal):
            engine.start()
            await self._server.serve(sockets=[self.listener])
            if self._front.context_length:  # building cannot be stopped, and nobody waits for it
                await self._close(engine)
        if isinstance(self._death, BenchError):
            raise self._death
        return 0 if self._death is None else 1

    async def _link(self, loop: asyncio.AbstractEventLoop) -> EngineThread | EngineProcess:
        if isinstance(self.engine, EngineProcess):
            await self.engine.attach(self._front.receive)
            return self.engine

        def post(event: Event) -> None:
            loop.call_soon_threadsafe(self._front.receive, event)

        return EngineThread(self.engine, post)

    async def _close(self, engine: EngineThread | EngineProcess) -> None:
        if not await asyncio.to_thread(engine.stop, CLOSE_ENGINE_S):
            logger.warning("the engine did not stop within %g s", CLOSE_ENGINE_S)

    def _config(self, served: Served) -> uvicorn.Config:
        return uvicorn.Config(
            build_app(served, api_key=self.api_key),
            http="httptools",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(self.drain_s) + 5,  # _end_drain comes first
        )

    def _mourn(self, error: BaseException) -> None:
        self._death = error
        was_serving = self._front.context_length > 0
        self._loop.call_later(OBITUARY_S if was_serving else 0, self._server.stop)

    def _on_signal(self) -> None:
        again = self._server.should_exit
        if self._front.state in ("ready", "loading"):
            self._front.state = "draining"
        self._server.stop()
        self._loop.call_later(0 if again else self.drain_s, self._end_drain)

    def _end_drain(self) -> None:
        self._front.fail_all("the server is shutting down")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which raise the signal again after the shutdown, and
    without its ten wake-ups a second: an idle server takes nothing from the cores it shares.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Accept nothing more; `serve` returns when every request is answered."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Replaces uvicorn's polling of `should_exit`."""
        await self._stopped.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are taken by `_signals_to`, which also covers the closing of the engine."""
        yield


@contextlib.contextmanager
def _signals_to(handle: Callable[[], None]) -> Iterator[None]:
    """Call `handle` for SIGINT and SIGTERM; in threads other than the main one none arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
