"""The running server: uvicorn, the models' engines, and how all of it ends.

SIGTERM, SIGINT   -> no new connections -> drain -> engines closed -> 0
a second signal   -> requests in flight end with an error at once
engine lost       -> requests in flight end with an error, /health 503 -> 1
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn
import uvloop

from enginebench.errors import BenchError
from enginebench_openai.access import Access
from enginebench_openai.app import build_app
from enginebench_openai.connection import connection_class
from enginebench_openai.limits import Limits, PoolSettings
from enginebench_openai.link import MakeLink
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.pool import ModelPool
from enginebench_openai.served import Served, ServedModels

if TYPE_CHECKING:
    from enginebench_models import ChatTemplate, Tokenizer

__all__ = ["OfferedModel", "ServerProcess"]

KEEP_ALIVE_S: Final = 120  # longer than clients keep idle connections, so that they close first
OBITUARY_S: Final = 1.0  # how long a server whose engine died still answers, with 503
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedModel:
    """A model that requests may name, and how its engine is reached once it is wanted."""

    name: str
    vocab_size: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    make_link: MakeLink
    path: str = ""
    size_bytes: int = 0


@dataclass(kw_only=True)
class ServerProcess:
    """Serves until told to stop. `on_ready` is called once, when requests are taken."""

    models: Sequence[OfferedModel]
    listener: socket.socket
    on_ready: Callable[[], None]
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    pool: PoolSettings = field(default_factory=PoolSettings)
    drain_s: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    slot_folder: Path | None = None

    def run(self) -> int:
        """Serve; the exit code. A BenchError that the engine raised while it was built passes."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run())

    def stop(self) -> None:
        """What SIGTERM does; from any thread, once `run` has begun to serve."""
        self._loop.call_soon_threadsafe(self._on_signal)

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._death: BaseException | None = None
        metrics = ServerMetrics()
        self._pool = ModelPool(
            {model.name: (model.make_link, model.size_bytes) for model in self.models},
            settings=self.pool,
            limits=self.limits,
            metrics=metrics,
            on_started=self.on_ready,
            on_lost=self._mourn,
        )
        self._server = _Server(self._config(self._served(metrics)))
        with _signals_to(self._on_signal):
            self._pool.start()
            await self._server.serve(sockets=[self.listener])
            await self._pool.close()
        if isinstance(self._death, BenchError):
            raise self._death
        return 0 if self._death is None else 1

    def _served(self, metrics: ServerMetrics) -> ServedModels:
        fronts = self._pool.fronts
        names = tuple(fronts)
        models = [
            Served(
                name=model.name,
                vocab_size=model.vocab_size,
                tokenizer=model.tokenizer,
                chat_template=model.chat_template,
                path=model.path,
                front=fronts[model.name],
                metrics=metrics,
                max_body_bytes=self.limits.max_body_bytes,
                stall_timeout_s=self.limits.stall_timeout_s,
                all_names=names,
            )
            for model in self.models
        ]
        return ServedModels(
            models, log_prompts=self.access.log_prompts, slot_folder=self.slot_folder
        )

    def _config(self, served: ServedModels) -> uvicorn.Config:
        return uvicorn.Config(
            build_app(served, access=self.access),
            http=connection_class(self.limits.stall_timeout_s),
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            ssl_certfile=self.tls_cert,
            ssl_keyfile=self.tls_key,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(self.drain_s) + 5,  # _end_drain comes first
        )

    def _mourn(self, error: BaseException) -> None:
        self._death = error
        served = any(front.context_length for front in self._pool.fronts.values())
        self._loop.call_later(OBITUARY_S if served else 0, self._server.stop)

    def _on_signal(self) -> None:
        again = self._server.should_exit
        self._pool.shut_down()
        self._server.stop()
        self._loop.call_later(0 if again else self.drain_s, self._end_drain)

    def _end_drain(self) -> None:
        self._pool.fail_all("the server is shutting down")


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
