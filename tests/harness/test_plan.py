"""The plan: which cells, in which order, with which seeds, and what cannot run."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import ModelError, UnknownNameError, UsageError
from enginebench.hardware import Capacity
from enginebench.hookspecs import hookimpl
from enginebench.options import parse_options
from enginebench.plan import Planned, build_plan
from enginebench.plugins import Origin, PluginManager
from enginebench.types import (
    Availability,
    Cell,
    Engine,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Option,
    Request,
    Workload,
    WorkloadSpec,
)

BOX = Capacity(cores=4, gpus=(0,))


class FakeEngine:
    def __init__(
        self,
        name: str,
        *,
        options: Sequence[Option] = (),
        state: Availability | None = None,
        refusal: str = "",
    ) -> None:
        self.name, self.summary, self.options = name, "", options
        self._state, self._refusal = state or Availability(ok=True), refusal

    def availability(self) -> Availability:
        return self._state

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return self._refusal if self._refusal and hardware.gpus else None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        raise AssertionError("a plan starts nothing")


class FakeWorkload:
    name = "fixed"
    summary = ""
    options = (
        Option("input_tokens", int, 128, ""),
        Option("output_tokens", int, 64, ""),
        Option("data", str, None, ""),
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        if cell.workload.options["input_tokens"] == 0:
            raise UsageError("input_tokens must be at least 1")
        return [Request(0, "hello", 1)]


class FakeTrace(FakeWorkload):
    name = "trace"

    def recorded_rate_rps(self, spec: WorkloadSpec) -> float:
        return float(spec.options["input_tokens"]) / 2


class FakePlugin:
    def __init__(self, *engines: Engine) -> None:
        self._engines = engines

    @hookimpl
    def enginebench_engines(self) -> Sequence[Engine]:
        return self._engines

    @hookimpl
    def enginebench_workloads(self) -> Sequence[Workload]:
        return [FakeWorkload(), FakeTrace()]

    @hookimpl
    def enginebench_resolve_model(self, name: str) -> ModelInfo | None:
        return ModelInfo(name, "gguf") if "unknown" not in name else None


PAGED = FakeEngine(
    "paged", options=(Option("block_size", int, 16, ""), Option("graphs", bool, True, ""))
)
QUANT = FakeEngine("quant", refusal="quant has no GPU kernels yet")
MISSING = FakeEngine(
    "missing", state=Availability(False, reason="torch is not installed", fix="pip install torch")
)
PEER = FakeEngine("peer", state=Availability(True, by_name_only=True))
SERVER = FakeEngine("server", options=(Option("url", str, None, "where it is", required=True),))


def plan(raw: dict[str, str | list[str]], *engines: FakeEngine) -> Planned:
    manager = PluginManager()
    manager.add(FakePlugin(*(engines or (PAGED, QUANT))), Origin("fake", "fake", "1"))
    texts = {key: [text] if isinstance(text, str) else text for key, text in raw.items()}
    return build_plan(parse_options({"hardware": ["cpu:2"], **texts}), manager, BOX)


def cells(raw: dict[str, str | list[str]], *engines: FakeEngine) -> Sequence[Cell]:
    return plan(raw, *engines).plan.cells


def test_engines_are_interleaved_and_turn_about() -> None:
    found = cells({"concurrency": "1,16", "repeats": "2"})
    assert [(c.repeat, str(c.load), c.spec.engine) for c in found] == [
        (0, "c1", "paged"),
        (0, "c1", "quant"),
        (0, "c16", "paged"),
        (0, "c16", "quant"),
        (1, "c1", "quant"),
        (1, "c1", "paged"),
        (1, "c16", "quant"),
        (1, "c16", "paged"),
    ]
    assert [cell.index for cell in found] == list(range(8))


def test_users_and_rates_are_cells_of_one_plan_and_never_of_one_load() -> None:
    found = cells({"concurrency": "4", "rate": "0.5,2"}, PAGED)
    assert [(c.load.users, c.load.rate_rps) for c in found] == [(4, None), (None, 0.5), (None, 2.0)]
    assert [c.id.split("-")[-2] for c in found] == ["c4", "r0.5", "r2"]
    assert len({c.seed for c in found}) == 3


def test_a_multiple_of_the_recorded_rate_is_a_rate_when_it_is_planned() -> None:
    found = cells({"workload": "trace", "rate": "2x,5", "input_tokens": "8,10"}, PAGED)
    assert [c.load.rate_rps for c in found] == [8.0, 5.0, 10.0, 5.0]
    with pytest.raises(UsageError, match=r"--rate 2x: the workload fixed was not recorded"):
        cells({"rate": "2x"}, PAGED)


def test_reused_servers_put_the_engine_before_the_load() -> None:
    found = cells({"concurrency": "1,16", "reuse_servers": "true"})
    assert [(c.spec.engine, str(c.load)) for c in found] == [
        ("paged", "c1"),
        ("paged", "c16"),
        ("quant", "c1"),
        ("quant", "c16"),
    ]


def test_outer_axes_come_in_order() -> None:
    found = cells(
        {"engines": "paged", "model": "a,b", "hardware": "cpu:1,cpu:2", "concurrency": "1"}
    )
    assert [(c.spec.model, str(c.spec.hardware)) for c in found] == [
        ("a", "cpu:1"),
        ("a", "cpu:2"),
        ("b", "cpu:1"),
        ("b", "cpu:2"),
    ]


def test_options_become_axes() -> None:
    found = cells(
        {
            "concurrency": "1",
            "set": ["paged.block_size=16,32", "paged.graphs=off"],
            "input_tokens": "8,16",
        }
    )
    assert [(c.spec.label, c.workload.options["input_tokens"]) for c in found] == [
        ("paged block_size=16 graphs=False", 8),
        ("paged block_size=32 graphs=False", 8),
        ("quant", 8),
        ("paged block_size=16 graphs=False", 16),
        ("paged block_size=32 graphs=False", 16),
        ("quant", 16),
    ]
    assert found[0].workload.options == {"input_tokens": 8, "output_tokens": 64}


def test_ids_are_file_names() -> None:
    found = cells(
        {
            "engines": "paged",
            "model": "smollm2-135m,/tmp/My Model.Q4_1.gguf,Qwen/Qwen2.5-3B,synthetic:x@q4_0",
            "hardware": "cpu:2,cuda:0,cuda:0+cpu:4",
            "concurrency": "16",
        }
    )
    assert [cell.id for cell in found[::3]] == [
        "0000-paged-smollm2-135m-cpu2-c16-r0",
        "0003-paged-my-model.q4_1-cpu2-c16-r0",
        "0006-paged-qwen2.5-3b-cpu2-c16-r0",
        "0009-paged-synthetic-x-q4_0-cpu2-c16-r0",
    ]
    assert found[2].id == "0002-paged-smollm2-135m-cuda0-cpu4-c16-r0"
    assert all(re.fullmatch(r"[a-z0-9._-]{1,120}", cell.id) for cell in found)


def test_seed_depends_on_everything_but_the_engine() -> None:
    raw = {
        "model": "a,b",
        "hardware": "cpu:1,cpu:2",
        "concurrency": "1,2",
        "repeats": "2",
        "input_tokens": "8,9",
        "set": ["paged.block_size=16,32"],
    }
    by_cell: dict[object, set[int]] = {}
    for cell in cells(raw):
        rest = (
            cell.spec.model,
            cell.spec.hardware,
            str(cell.load),
            cell.repeat,
            cell.workload.options["input_tokens"],
        )
        by_cell.setdefault(rest, set()).add(cell.seed)
    assert len(by_cell) == 32
    assert all(len(seeds) == 1 for seeds in by_cell.values())
    assert len(set.union(*by_cell.values())) == 32
    assert not {c.seed for c in cells(raw)} & {c.seed for c in cells({**raw, "seed": "1"})}


@given(st.integers(0, 10**6), st.integers(1, 3), st.lists(st.integers(1, 99), max_size=3))
def test_the_same_options_give_the_same_plan(seed: int, repeats: int, users: list[int]) -> None:
    raw: dict[str, str | list[str]] = {"seed": str(seed), "repeats": str(repeats)}
    if users:
        raw["concurrency"] = ",".join(map(str, dict.fromkeys(users)))
    first, second = plan(raw), plan(raw)
    assert first == second
    assert len({cell.id for cell in first.plan.cells}) == len(first.plan.cells)
    assert len(first.plan.cells) == repeats * 2 * (len(set(users)) or 2)


def test_all_leaves_out_what_cannot_run_and_says_why() -> None:
    planned = plan({"hardware": "cpu:2,cuda:0"}, PAGED, QUANT, MISSING, SERVER)
    assert [str(out) for out in planned.left_out] == [
        "missing cannot run: torch is not installed. Fix: pip install torch",
        "server cannot run: it needs the option 'url'. "
        "Fix: add --set server.url=VALUE (where it is)",
        "quant cannot run on smollm2-135m with cuda:0: quant has no GPU kernels yet",
    ]
    ran = {(cell.spec.engine, str(cell.spec.hardware)) for cell in planned.plan.cells}
    assert ran == {("paged", "cpu:2"), ("paged", "cuda:0"), ("quant", "cpu:2")}


def test_who_takes_part_by_name_only_is_not_among_all() -> None:
    planned = plan({"engines": "all"}, PAGED, PEER)
    assert {cell.spec.engine for cell in planned.plan.cells} == {"paged"}
    assert [str(out) for out in planned.left_out] == [
        "peer takes part by name only; to add it: --engines all,peer"
    ]
    for engines in ("all,peer", "peer,paged"):
        planned = plan({"engines": engines, "concurrency": "1"}, PAGED, PEER)
        assert {cell.spec.engine for cell in planned.plan.cells} == {"paged", "peer"}
        assert not planned.left_out


def test_who_takes_part_by_name_only_and_is_not_here_is_not_mentioned_by_all() -> None:
    absent = FakeEngine("absent", state=Availability(False, reason="no", by_name_only=True))
    assert plan({"engines": "all"}, PAGED, absent).left_out == ()
    with pytest.raises(UsageError, match="absent cannot run: no"):
        plan({"engines": "all,absent"}, PAGED, absent)


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        ("missing", r"missing cannot run: torch is not installed\. Fix: pip install torch"),
        ("paged,quant", r"quant cannot run on smollm2-135m with cuda:0: quant has no GPU"),
        ("server", r"needs the option 'url'"),
    ],
)
def test_an_engine_that_was_named_and_cannot_run_is_an_error(engines: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan({"engines": engines, "hardware": "cuda:0"}, PAGED, QUANT, MISSING, SERVER)


def test_nothing_can_run() -> None:
    with pytest.raises(UsageError, match=r"no engine can run:\n  missing cannot run"):
        plan({}, MISSING)


def test_a_required_option_that_is_given_lets_it_run() -> None:
    assert cells({"set": ["server.url=http://x"]}, SERVER)[0].spec.options == {"url": "http://x"}


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        ({"engines": "pagd"}, UnknownNameError, "unknown engine 'pagd'; did you mean paged"),
        ({"workload": "fixd"}, UnknownNameError, "did you mean fixed"),
        ({"model": "unknown"}, ModelError, "unknown model 'unknown'"),
        ({"hardware": "cpu:64"}, UsageError, "this machine has 4"),
        ({"set": ["pagd.block_size=1"]}, UnknownNameError, "did you mean paged"),
        ({"set": ["paged.blocksize=1"]}, UnknownNameError, "did you mean block_size"),
        ({"set": ["fixed.inputs=1"]}, UnknownNameError, "did you mean input_tokens"),
        ({"engines": "quant", "set": ["paged.block_size=1"]}, UsageError, "not among --engines"),
        ({"input_tokens": "0"}, UsageError, "input_tokens must be at least 1"),
        ({"input_tokens": "x"}, UsageError, r"fixed.input_tokens='x': must be a value of type int"),
    ],
)
def test_what_does_not_exist_is_found_before_anything_starts(
    raw: dict[str, str | list[str]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(raw)


def test_budget_and_name() -> None:
    planned = plan({"requests": "5", "warmup": "2", "model": "a/b-1,c"})
    assert planned.plan.name == "b-1-c"
    budget = planned.plan.cells[0].budget
    assert (budget.requests, budget.duration_s, budget.warmup_requests) == (5, None, 2)
    assert plan({"name": "mine"}).plan.name == "mine"


def test_default_model_is_remote_for_a_server_alone() -> None:
    url = FakeEngine("url", options=SERVER.options)
    assert cells({"url": "http://x"}, url)[0].spec.model == "remote"
    assert cells({"engines": "paged"})[0].spec.model == "smollm2-135m"


def test_searches_stand_behind_the_cells_and_begin_with_one_of_their_own() -> None:
    found = plan({"concurrency": "4", "rate": "saturate:8", "precision": "2%", "budget": "1m"}).plan
    assert len(found.cells) == 2 * 3 and {str(cell.load) for cell in found.cells} == {"c4"}
    first, second, precision = found.searches
    assert [search.id for search in found.searches] == [
        "00-paged-saturate", "01-quant-saturate", "precision"
    ]  # fmt: skip
    assert first.first is not None and second.first is not None and precision.first is None
    assert str(first.first.load) == "r8" and first.first.search == first.id
    assert first.first.seed == second.first.seed  # engines answer the same
    assert (precision.target, precision.budget_s) == (0.02, 60.0)
