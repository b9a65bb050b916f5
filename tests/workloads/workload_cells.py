"""Cells and models that tests of workloads share."""

from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    OptionValue,
    WorkloadSpec,
)

__all__ = ["MODEL", "REMOTE", "cell_of"]

MODEL = ModelInfo(
    "m",
    "gguf",
    vocab_size=1000,
    first_ordinary_token=10,
    ordinary_token_end=990,
    context_length=512,
)
REMOTE = ModelInfo("served", "remote")


def cell_of(
    workload: str,
    *,
    seed: int = 1,
    users: int | None = None,
    rate_rps: float | None = None,
    requests: int | None = 20,
    duration_s: float | None = None,
    warmup: int = 2,
    **options: OptionValue,
) -> Cell:
    """A cell of 20 requests after 2 warm-up ones, of 4 users unless there is a rate."""
    load = Load(rate_rps=rate_rps) if rate_rps is not None else Load(users=users or 4)
    return Cell(
        index=0,
        spec=EngineSpec("echo", "m", Hardware(cpu_threads=1)),
        workload=WorkloadSpec(workload, options),
        load=load,
        budget=Budget(requests=requests, duration_s=duration_s, warmup_requests=warmup),
        repeat=0,
        seed=seed,
        id="c",
    )
