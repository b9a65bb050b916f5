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
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from enginebench.errors import BenchError, UsageError
from enginebench.types import API_KEY_VARIABLE, Option, OptionValue
from enginebench_openai.launch import ServeArguments, parse_arguments, server_launch

if TYPE_CHECKING:
    from enginebench_models import Model
    from enginebench_openai.engine_process import EngineProcess
    from enginebench_openai.protocol import TokenEngine

__all__ = ["serve_main", "server_launch"]


def serve_main(
    argv: Sequence[str],
    *,
    description: str,
    options: Sequence[Option],
    make_engine: Callable[[Model, Mapping[str, OptionValue]], TokenEngine],
) -> NoReturn:
    """The `main()` of an engine's server. `make_engine` is called in the engine's thread, with
    those options that were given or have a default.
    """
    started = time.perf_counter()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    arguments = parse_arguments(
        argv, program=Path(sys.argv[0]).name, description=description, options=options
    )
    try:
        code = _serve(arguments, make_engine, started)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    _exit(code)


def _serve(
    arguments: ServeArguments,
    make_engine: Callable[[Model, Mapping[str, OptionValue]], TokenEngine],
    started: float,
) -> int:
    api_key = _api_key(arguments.api_key_file)
    with _listen(arguments.host, arguments.port) as listener:
        engine = _engine_process(arguments, make_engine, listener)
        from enginebench_models import open_model
        from enginebench_openai.process import ServerProcess

        model = open_model(arguments.model)
        process = ServerProcess(
            name=arguments.served_model_name,
            vocab_size=min(model.config.vocab_size, model.tokenizer.vocab_size),
            tokenizer=model.tokenizer,
            chat_template=model.chat_template,
            engine=engine or (lambda: make_engine(model, arguments.options)),
            listener=listener,
            api_key=api_key,
            max_body_bytes=arguments.max_body_bytes,
            drain_s=arguments.drain_s,
            on_ready=lambda: _announce(listener, time.perf_counter() - started),
        )
        return process.run()


def _engine_process(
    arguments: ServeArguments,
    make_engine: Callable[[Model, Mapping[str, OptionValue]], TokenEngine],
    listener: socket.socket,
) -> EngineProcess | None:
    """Forked before anything is loaded; it opens the model by itself."""
    if not arguments.engine_process:
        return None
    from enginebench_openai.engine_process import EngineProcess

    def build() -> TokenEngine:
        from enginebench_models import open_model

        return make_engine(open_model(arguments.model), arguments.options)

    return EngineProcess(build, not_for_it=listener)


def _announce(listener: socket.socket, ready_s: float) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    gc.collect()
    gc.freeze()  # what is loaded by now stays: later collections need not walk it
    print(f"ready on http://{shown}:{port} in {ready_s:.2f} s", flush=True)


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


def _api_key(file: Path | None) -> str | None:
    """The key that requests must carry: from the file, else the environment, else none."""
    if file is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --api-key-file {file}: {error}") from None
    if not key:
        raise UsageError(f"--api-key-file {file} is empty; write the key into it")
    return key


def _exit(code: int) -> NoReturn:
    """End at once: an engine that hangs, and the threads of its libraries, must not keep us."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
