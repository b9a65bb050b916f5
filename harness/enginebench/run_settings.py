"""How a plan is executed: time limits, sampling, reuse of servers. Stored with the Run."""

from __future__ import annotations

from dataclasses import dataclass

from enginebench.slo import Slo

__all__ = ["RunSettings"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """`startup_timeout_s` None: as long as each engine's Launch says.

    A cell fails when its engine produced no token for `stall_timeout_s` (an open loop adds the
    longest pause of its schedule), a request when it took `request_timeout_s`. A process that was
    asked to stop is killed after `grace_s`. With `reuse_servers`, consecutive cells of equal
    EngineSpecs share one server. `load_workers` processes of this machine share the load, and
    `remote_workers` of others, which join at `load_listen` (HOST:PORT).

    With `check_answers`, each server answers fixed questions before
    its load; reports hold the answers against those of the engine `reference` (None: see
    docs/measuring.md). `price_per_hour` is what this machine costs, in whatever currency.
    `slo` is what goodput is counted against; None: nothing. Servers that change models by
    themselves get `switch_to` as a second one, and the time that takes is measured before the load.
    """

    reuse_servers: bool = False
    load_workers: int = 1
    remote_workers: int = 0
    load_listen: str | None = None
    request_timeout_s: float = 600.0
    stall_timeout_s: float = 180.0
    startup_timeout_s: float | None = None
    grace_s: float = 10.0
    telemetry_interval_s: float = 0.25
    check_answers: bool = True
    reference: str | None = None
    price_per_hour: float | None = None
    slo: Slo | None = None
    switch_to: str | None = None
