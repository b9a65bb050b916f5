"""An engine's server: started under the guard, awaited until it is healthy, stopped.

    server = start_server(engine, spec, model, log=path, settings=settings, on_start=print)
    server.endpoint.base_url, server.ready_s
    server.stop()

An engine that hands out an Endpoint instead of a Launch runs already: it is only asked whether it
answers. Knows nothing of cells, load or Run folders.
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from enginebench.errors import EngineError
from enginebench.machine import pick_cores
from enginebench.process import GuardedProcess, NotStarted, describe_exit, log_tail, start
from enginebench.run_settings import RunSettings
from enginebench.types import (
    API_KEY_VARIABLE,
    Endpoint,
    Engine,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
)

__all__ = ["Server", "hardware_env", "start_server"]

_ATTEMPTS = 3  # a free port may be taken by somebody else before the server binds it
_PROBE_TIMEOUT_S = 2.0
_ENDPOINT_TIMEOUT_S = 10.0
_POLL_S = 0.05
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers. `process` and `ready_s` are None for one that we did not start.

    `switches`: it changes to the model `RunSettings.switch_to` when that is asked for.
    """

    endpoint: Endpoint
    log: Path
    process: GuardedProcess | None = None
    ready_s: float | None = None
    switches: bool = False

    def check(self) -> None:
        """Raises EngineError if the server has ended."""
        if self.process is not None and self.process.exit_code is not None:
            raise EngineError(
                f"the engine {describe_exit(self.process.exit_code)} while it served",
                log_tail(self.log),
            )

    def stop(self) -> int | None:
        """End it and everything it started; its exit code, None for one that is not ours."""
        if self.process is None:
            return None
        with self.process:
            return self.process.stop()


class _PortLost(Exception):
    """Somebody else listens on the port that was meant for the server."""


def start_server(
    engine: Engine,
    spec: EngineSpec,
    model: ModelInfo,
    *,
    log: Path,
    settings: RunSettings,
    on_start: Callable[[int | None], None],
) -> Server:
    """Start `spec` and wait until it is healthy; `on_start` gets its pid before that.

    Raises EngineError when it cannot start, ends early, or is not healthy in time.
    """
    for _ in range(_ATTEMPTS):
        port = _free_port()
        launch = engine.launch(spec, model, port)
        if isinstance(launch, Endpoint):
            on_start(launch.pid)
            _await_endpoint(launch)
            return Server(launch, log)
        try:
            return _start(launch, spec, port, log, settings, on_start)
        except _PortLost:
            continue
    raise EngineError(
        f"{spec.engine}: {_ATTEMPTS} free ports were taken by others before it could bind one",
        log_tail(log),
    )


def hardware_env(hardware: Hardware) -> dict[str, str]:
    """What tells an engine's process which threads and GPUs are its own."""
    env = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, hardware.gpus)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order, which `Hardware.gpus` counts in
    }
    if hardware.cpu_threads is not None:
        env |= dict.fromkeys(_THREAD_VARIABLES, str(hardware.cpu_threads))
    return env


def _start(
    launch: Launch,
    spec: EngineSpec,
    port: int,
    log: Path,
    settings: RunSettings,
    on_start: Callable[[int | None], None],
) -> Server:
    threads = spec.hardware.cpu_threads
    switches = settings.switch_to is not None and launch.several_models
    started = time.monotonic()
    try:
        process = start(
            _argv(launch, settings.switch_to),
            log=log,
            env=_environment(spec.hardware, launch.env),
            cores=() if threads is None else pick_cores(threads),
            grace_s=settings.grace_s,
        )
    except NotStarted as error:
        raise EngineError(f"{spec.engine}: {error}", log_tail(log)) from error
    endpoint = Endpoint(
        f"http://127.0.0.1:{port}", launch.model_name, process.pid, health_path=launch.health_path
    )
    server = Server(endpoint, log, process)
    try:
        on_start(process.pid)
        _await_health(server, spec, port, settings.startup_timeout_s or launch.startup_timeout_s)
    except BaseException:
        server.stop()
        raise
    return Server(endpoint, log, process, time.monotonic() - started, switches)


def _argv(launch: Launch, switch_to: str | None) -> tuple[str, ...]:
    if switch_to is None or not launch.several_models:
        return launch.argv
    return (*launch.argv, "--model", switch_to, "--served-model-name", switch_to)


def _environment(hardware: Hardware, own: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment: ours without the key that is meant for somebody else's server."""
    ours = {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE}
    return {**ours, "PYTHONUNBUFFERED": "1", **hardware_env(hardware), **own}


# ---------------------------------------------------------------- health


def _await_health(server: Server, spec: EngineSpec, port: int, timeout_s: float) -> None:
    process, deadline = server.process, time.monotonic() + timeout_s
    assert process is not None
    while (code := process.wait(_POLL_S)) is None:
        if _probe(server.endpoint) == "" and not _is_foreign(port, process.pid):
            return
        if time.monotonic() > deadline:
            raise EngineError(
                f"{spec.engine} was not healthy after {timeout_s:g} s "
                f"({server.endpoint.health_path} did not answer 200)",
                log_tail(server.log),
            )
    if _somebody_listens(port):
        raise _PortLost
    raise EngineError(
        f"{spec.engine} {describe_exit(code)} before it was ready", log_tail(server.log)
    )


def _await_endpoint(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + _ENDPOINT_TIMEOUT_S
    while problem := _probe(endpoint):
        if time.monotonic() > deadline:
            raise EngineError(
                f"{endpoint.base_url}{endpoint.health_path} does not answer 200: {problem}; "
                "start that server, or give the right URL"
            )
        time.sleep(_POLL_S)


def _probe(endpoint: Endpoint) -> str:
    """Empty if the server is healthy, else what it answered."""
    url = urlsplit(endpoint.base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=_PROBE_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    try:
        connection.request("GET", url.path.rstrip("/") + endpoint.health_path, headers=headers)
        answer = connection.getresponse()
        return "" if answer.status == 200 else f"status {answer.status} {answer.reason}"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


# ---------------------------------------------------------------- ports


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _somebody_listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(_PROBE_TIMEOUT_S)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _is_foreign(port: int, pid: int) -> bool:
    """Whether a process that is not `pid` or below it answers there, as far as we may see."""
    import psutil

    try:
        tree = {pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))}
        sockets = psutil.net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    owners = {
        each.pid
        for each in sockets
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port
    }
    return bool(owners) and None not in owners and not owners & tree
