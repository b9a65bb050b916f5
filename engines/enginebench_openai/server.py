"""An engine's server process, from its command line to its exit code.

In this order: the command line is read, the port is taken (a port in use ends it at once, before
anything is loaded), the model's headers are opened, and the server answers while the engine is
being built in a thread or, where there is a GPU, a process of its own: /health says 503 until
requests are taken, and then a line `ready on http://...` is printed.

Exit codes: 0 after SIGTERM or SIGINT, with requests in flight finished or, after `--drain-s`, ended
with an error; 2 for what the user can repair; 1 when the engine failed.

Importing this module is cheap; the web server is imported by `serve_main`.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from enginebench.errors import BenchError, UsageError
from enginebench.types import API_KEY_VARIABLE, Option, OptionValue
from enginebench_openai.launch import ServeArguments, parse_arguments, server_launch
from enginebench_openai.layout import Layout, claim_share
from enginebench_openai.logs import set_up_logging

if TYPE_CHECKING:
    from enginebench_models import Model
    from enginebench_openai.access import Access
    from enginebench_openai.engine_process import EngineProcess
    from enginebench_openai.link import EngineLink, MakeLink
    from enginebench_openai.loop import Event
    from enginebench_openai.nursery import Nursery
    from enginebench_openai.protocol import TokenEngine

    MakeEngine = Callable[[Model, Mapping[str, OptionValue]], TokenEngine]

__all__ = ["serve_main", "server_launch"]


def serve_main(
    argv: Sequence[str],
    *,
    description: str,
    options: Sequence[Option],
    make_engine: MakeEngine,
    layout: Callable[[Mapping[str, OptionValue]], Layout] = lambda options: Layout(),
) -> NoReturn:
    """The `main()` of an engine's server. `make_engine` is called in the engine's thread, with
    those options that were given or have a default; `layout` says what they mean for processes.
    """
    started = time.perf_counter()
    arguments = parse_arguments(
        argv,
        program=Path(sys.argv[0]).name,
        description=description,
        options=options,
        layout=layout,
    )
    set_up_logging(arguments.log_format, requests=arguments.log_requests or arguments.log_prompts)
    try:
        code = _serve(arguments, make_engine, started)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    _exit(code)


def _serve(arguments: ServeArguments, make_engine: MakeEngine, started: float) -> int:
    api_keys = _api_keys(arguments.api_key_file)
    for file in (arguments.tls_cert, arguments.tls_key):
        if file is not None and not file.is_file():
            raise UsageError(f"the file {file} does not exist: --tls-cert and --tls-key need PEM")
    if arguments.slot_folder is not None and not arguments.slot_folder.is_dir():
        raise UsageError(f"--slot-save-path {arguments.slot_folder} is not a directory: make it")
    with _listen(arguments.host, arguments.port) as listener:
        engines = _Engines(arguments, make_engine, listener)
        from enginebench_models import open_model
        from enginebench_openai.process import OfferedModel, ServerProcess

        offered = []
        for index, (name, where) in enumerate(arguments.models):
            model = open_model(where)
            _check_size(name, model.info.size_bytes or 0, arguments.pool.memory_bytes)
            offered.append(
                OfferedModel(
                    name=name,
                    vocab_size=min(model.config.vocab_size, model.tokenizer.vocab_size),
                    tokenizer=model.tokenizer,
                    chat_template=model.chat_template,
                    make_link=engines.maker(index, model),
                    path=where,
                    size_bytes=model.info.size_bytes or 0,
                )
            )
        process = ServerProcess(
            models=offered,
            listener=listener,
            access=_access(arguments, api_keys),
            limits=arguments.limits,
            pool=arguments.pool,
            drain_s=arguments.drain_s,
            tls_cert=arguments.tls_cert,
            tls_key=arguments.tls_key,
            slot_folder=arguments.slot_folder,
            on_ready=lambda: _announce(
                listener, arguments.tls_cert is not None, time.perf_counter() - started
            ),
        )
        return process.run()


def _check_size(name: str, size_bytes: int, most_bytes: int | None) -> None:
    if most_bytes is not None and size_bytes > most_bytes:
        raise UsageError(
            f"the weights of {name!r} take {size_bytes / 2**30:.2f} GiB, more than "
            f"--max-model-memory-gib {most_bytes / 2**30:g}: allow more, or leave the model out"
        )


class _Engines:
    """Ways to engines, in threads or in processes; the first process is begun at once, so that it
    builds its engine while this one loads the rest.
    """

    def __init__(
        self, arguments: ServeArguments, make_engine: MakeEngine, listener: socket.socket
    ) -> None:
        self._arguments, self._make_engine = arguments, make_engine
        self._nursery: Nursery | None = None
        if arguments.engine_process:  # before anything is loaded
            from enginebench_openai.nursery import Nursery

            replicas = range(arguments.layout.replicas)
            mains = [
                partial(self._run, where, number)
                for _, where in arguments.models
                for number in replicas
            ]
            self._nursery = Nursery(mains, not_for_it=listener)
            self._first = {number: self._nursery.spawn(number) for number in replicas}

    def maker(self, index: int, model: Model) -> MakeLink:
        """What makes the way to a new engine for the model at `index`."""
        if self._nursery is None:
            return lambda receive: self._thread(model, receive)
        count = self._arguments.layout.replicas
        makes = [partial(self._process, index * count + number) for number in range(count)]
        if count == 1:
            return makes[0]
        from enginebench_openai.replicas import Replicas

        restarts = self._arguments.pool.restarts > 0
        return lambda receive: Replicas(makes, receive, restarts=restarts)

    def _thread(self, model: Model, receive: Callable[[Event], None]) -> EngineLink:
        import asyncio

        from enginebench_openai.loop import EngineThread

        loop = asyncio.get_running_loop()

        def post(event: Event) -> None:
            loop.call_soon_threadsafe(receive, event)

        return EngineThread(lambda: self._make_engine(model, self._arguments.options), post)

    def _process(self, which: int, receive: Callable[[Event], None]) -> EngineProcess:
        from enginebench_openai.engine_process import EngineProcess

        assert self._nursery is not None
        child = self._first.pop(which, None)
        return EngineProcess(child or self._nursery.spawn(which), receive)

    def _run(self, where: str, replica: int, link: socket.socket) -> None:
        """In the engine's process, which opens the model by itself."""
        from enginebench_openai.engine_process import run_engine

        def build() -> TokenEngine:
            claim_share(self._arguments.layout, replica)
            from enginebench_models import open_model

            return self._make_engine(open_model(where), self._arguments.options)

        run_engine(link, build)


def _announce(listener: socket.socket, tls: bool, ready_s: float) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    gc.collect()
    gc.freeze()  # what is loaded by now stays: later collections need not walk it
    print(f"ready on http{'s' * tls}://{shown}:{port} in {ready_s:.2f} s", flush=True)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that nobody else can take the port meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port, or "
            "--port 0 for any free one"
        ) from None
    return listener


def _access(arguments: ServeArguments, api_keys: tuple[str, ...]) -> Access:
    from enginebench_openai.access import Access

    return Access(
        api_keys=api_keys,
        cors_origins=arguments.cors_origins,
        log_requests=arguments.log_requests,
        log_prompts=arguments.log_prompts,
    )


def _api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys that requests may carry: from the file, else the environment, else none."""
    if file is None:
        key = os.environ.get(API_KEY_VARIABLE)
        return (key,) if key else ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --api-key-file {file}: {error}") from None
    keys = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not keys:
        raise UsageError(f"--api-key-file {file} is empty; write a key into each line")
    return keys


def _exit(code: int) -> NoReturn:
    """End at once: an engine that hangs, and the threads of its libraries, must not keep us."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
