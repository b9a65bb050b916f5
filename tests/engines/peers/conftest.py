"""Engines started as `bench run` starts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from peer_stub import Stub

from enginebench import plugins
from enginebench.run_settings import RunSettings
from enginebench.server import Server, start_server
from enginebench.types import EngineSpec, Hardware, OptionValue

CORE = Hardware(cpu_threads=1)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`serve("llamacpp", path, parallel=2)`: a server on one core, kept for the module's tests.

    Skips the test where that engine is not installed.
    """
    folder = tmp_path_factory.mktemp("served")
    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def served(name: str, model: str | Path, **options: OptionValue) -> Server:
            key = f"{name} {model} {options}"
            if key not in servers:
                log = folder / f"{len(servers)}.log"
                servers[key] = _start(EngineSpec(name, str(model), CORE, options), log)
                stack.callback(servers[key].stop)
            return servers[key]

        yield served


def _start(spec: EngineSpec, log: Path) -> Server:
    engine = plugins.engines()[spec.engine]
    state = engine.availability()
    if not state.ok:
        pytest.skip(f"{spec.engine}: {state.reason}; {state.fix}")
    model = plugins.resolve_model(spec.model)
    assert engine.refuses(model, spec.hardware) is None
    return start_server(
        engine, spec, model, log=log, settings=RunSettings(), on_start=lambda pid: None
    )


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A PATH on which only stubs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return Stub(folder, monkeypatch)
