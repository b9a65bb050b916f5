"""The nouns of the product: frozen facts that plugins, the executor, the store and reports share.

Nothing here computes, starts or writes anything. Every mapping and sequence in here is plain
data (str, int, float, bool, None, tuples, mappings of those), so that it survives a round trip
through JSON unchanged. Times on one machine are monotonic nanoseconds (`*_ns`); durations are
seconds (`*_s`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from enginebench.results import CellResult, ResultSet

__all__ = [
    "API_KEY_VARIABLE",
    "Availability",
    "Budget",
    "Calibrator",
    "Cell",
    "Endpoint",
    "Engine",
    "EngineSpec",
    "Flag",
    "Hardware",
    "Launch",
    "Load",
    "Message",
    "Metric",
    "MetricInfo",
    "ModelInfo",
    "ModelShape",
    "NullEngine",
    "Numerics",
    "Option",
    "OptionValue",
    "Plan",
    "RecordedWorkload",
    "Report",
    "Request",
    "RequestRecord",
    "Search",
    "StampedBy",
    "TellsMetrics",
    "TellsNumerics",
    "TokenCountSource",
    "Workload",
    "WorkloadSpec",
]

API_KEY_VARIABLE = "ENGINEBENCH_API_KEY"
"""Environment variable with the key of a server: the one asked, or the one started by hand."""

OptionValue = str | int | float | bool
TokenCountSource = Literal["usage", "chunk_usage", "token_ids", "retokenized", "chunks"]
StampedBy = Literal["kernel", "read"]
"""Who stamped arrivals: the kernel as they came in, or the driver as it read them."""


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True, slots=True)
class Hardware:
    """The part of the machine that an engine process may use.

    `cpu_threads` pins the process to that many cores (None: not pinned), `gpus` are device
    indices. Written `cpu:2`, `cuda:0`, `cuda:0,1` or `cuda:0+cpu:8`.
    """

    cpu_threads: int | None = None
    gpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.gpus:
            parts.append("cuda:" + ",".join(map(str, self.gpus)))
        if self.cpu_threads is not None:
            parts.append(f"cpu:{self.cpu_threads}")
        return "+".join(parts)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What computing one token takes. `token_weights` numbers are multiplied with it, which lie in
    `token_bytes` of the model's file; `head_weights` of them only where a next token is asked for.

    Of each token before it, `kv_values` numbers are read, and as many as `attention_values` are
    multiplied twice.
    """

    token_weights: int
    token_bytes: int
    head_weights: int
    kv_values: int
    attention_values: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known about a model before any engine loads it.

    `name` is what the user typed; `path` is the local file or folder (None for `synthetic:` and
    for models that only a remote server knows). `vocab_size` is None when nothing local tells.
    Token ids from `first_ordinary_token` up to, not including, `ordinary_token_end` (None: up to
    `vocab_size`) have no special meaning: they are safe in random prompts. `precision` is how the
    model is called by; `weight_types` are the types (GGUF's names) of all its matrices, empty if
    nothing local tells.
    """

    name: str
    format: Literal["gguf", "hf", "synthetic", "remote"]
    path: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    vocab_size: int | None = None
    first_ordinary_token: int = 0
    ordinary_token_end: int | None = None
    context_length: int | None = None
    size_bytes: int | None = None
    precision: str | None = None
    weight_types: tuple[str, ...] = ()
    shape: ModelShape | None = None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One way to run an engine: which, on what model and hardware, with which options."""

    engine: str
    model: str
    hardware: Hardware
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name shown in tables: the engine and the options that differ from its defaults."""
        chosen = " ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.engine} {chosen}".strip()


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """A workload by name, with its options (lengths, data files ...) all written out."""

    name: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """How hard a cell is driven: closed loop with `users`, or open loop at `rate_rps`.

    Exactly one of the two is set: figures of the two kinds are never mixed.
    """

    users: int | None = None
    rate_rps: float | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.rate_rps is None):
            raise ValueError("a load has either users or rate_rps")

    def __str__(self) -> str:
        return f"c{self.users}" if self.users is not None else f"r{self.rate_rps:g}"


@dataclass(frozen=True, slots=True)
class Budget:
    """When a cell ends: after `requests` measured requests or `duration_s`, whichever is first.

    New requests stop at the end; those in flight are finished and recorded. In a closed loop each
    user completes at least one measured request. `warmup_requests` come first and are recorded
    with phase "warmup"; with `warmup_until_steady` there are so many at most.
    """

    requests: int | None = None
    duration_s: float | None = None
    warmup_requests: int = 1
    warmup_until_steady: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: engine x model x hardware x workload x load x repeat.

    `seed` decides the prompts. It depends on everything but the engine, so that engines are
    compared on the same prompts, and no prompt comes back in another cell. `search` is the id of
    the search that added the cell.
    """

    index: int
    spec: EngineSpec
    workload: WorkloadSpec
    load: Load
    budget: Budget
    repeat: int
    seed: int
    id: str
    search: str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """Cells that a run adds as it goes; a cell that one added has its id.

    - `saturate`: the highest rate that the engine keeps up with.
    - `slo`: the highest load at which a share `target` of all requests meets the Run's SLO.
    - `precision`: repeats of what is planned, until the main metric's interval is within `target`
      of its mean.

    A search for a load begins with the cell `first`, and tries others like it; precision has none.
    It ends, settled or not, when it has taken `budget_s`.
    """

    id: str
    goal: Literal["saturate", "slo", "precision"]
    budget_s: float
    target: float
    first: Cell | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of a run, in the order in which they are run (engines interleaved).

    After them come the `searches`, one by one, and what they add stands behind the others.
    `null_engines` are those that say so of themselves (see NullEngine); None: not recorded.
    """

    name: str
    seed: int
    cells: tuple[Cell, ...]
    models: Mapping[str, ModelInfo]
    null_engines: tuple[str, ...] | None = None
    searches: tuple[Search, ...] = ()


# ---------------------------------------------------------------- requests and what came of them


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a schedule, written before anything starts.

    `prompt` is text, token ids or chat messages, never mixed (the last goes to
    /v1/chat/completions, the others to /v1/completions). `scheduled_s` counts from the start of the
    cell; None in a closed loop, where a request is due as soon as its user is free. `body` holds
    further JSON fields (temperature, ignore_eos ...).

    A request that `follows` another (by its index) is a later turn of a conversation: its `prompt`
    is only what is new, sent behind the whole history with the real answers, and it is due
    `think_s` after the answer before it. Of one that follows none, in a closed loop, `think_s` is
    how long after the start of measuring its user joins.
    """

    index: int
    prompt: str | tuple[int | Message, ...]
    max_tokens: int
    scheduled_s: float | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    follows: int | None = None
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What happened to one request: raw facts, nothing derived. Clocks: the driver's monotonic ns.

    `chunk_ns[i]` is when the i-th chunk that carried generated text arrived, `chunk_tokens[i]` how
    many tokens it held by `token_count_source`. A failed request is a record with `error` set.
    """

    request_index: int
    user: int
    phase: Literal["warmup", "measure"]
    scheduled_ns: int
    sent_ns: int
    end_ns: int
    chunk_ns: tuple[int, ...]
    chunk_tokens: tuple[int, ...]
    token_count_source: TokenCountSource | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    finish_reason: str | None = None
    http_status: int | None = None
    error: str | None = None
    text: str = ""


# ---------------------------------------------------------------- engines


@dataclass(frozen=True, slots=True)
class Option:
    """An engine or workload option: what `--set engine.name=value` accepts.

    Without a value for a `required` option (the address of a server, say) an engine cannot run.
    A switch may stand for a `technique`, used everywhere or on GPUs only: `bench why` turns it off
    to see what it is worth.
    """

    name: str
    type: type[str] | type[int] | type[float] | type[bool]
    default: OptionValue | None
    help: str
    choices: tuple[OptionValue, ...] = ()
    required: bool = False
    technique: Literal["everywhere", "gpu"] | None = None


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an engine can run here; if not, why, and what to type to change that.

    `by_name_only`: `all` leaves it out, so that what `all` measures does not depend on what else
    happens to be installed (engines that others wrote); `all,NAME` takes it in.
    """

    ok: bool
    version: str | None = None
    reason: str = ""
    fix: str = ""
    by_name_only: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an engine's server: it must listen on 127.0.0.1 at the port it was given.

    It is ready when GET `health_path` answers 200. `model_name` is what requests put into "model".
    `several_models`: its command line takes `--model` again for further models, which it loads when
    they are asked for, and `--engine-restarts`.
    """

    argv: tuple[str, ...]
    model_name: str
    env: Mapping[str, str] = field(default_factory=dict)
    health_path: str = "/health"
    startup_timeout_s: float = 600.0
    several_models: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that answers: OpenAI-compatible, `base_url` without /v1 (http://127.0.0.1:8000).

    `pid` is the process whose tree is sampled, None for a server that we did not start.
    """

    base_url: str
    model_name: str
    pid: int | None = None
    api_key: str | None = None
    health_path: str = "/health"


@runtime_checkable
class Engine(Protocol):
    """An engine plugin: knows what it supports and how it is started; never does it itself."""

    name: str
    summary: str
    options: Sequence[Option]

    def availability(self) -> Availability:
        """Cheap: imports nothing heavy (importlib.util.find_spec, shutil.which)."""
        ...

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """Why this engine cannot run that model on that hardware; None if it can."""
        ...

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch | Endpoint:
        """The command that serves `spec` on `port`, or the Endpoint of one already running."""
        ...


@runtime_checkable
class NullEngine(Engine, Protocol):
    """An engine that computes nothing: it shows the harness's own floor, competes with nobody."""

    computes_nothing: Literal[True]


@dataclass(frozen=True, slots=True)
class Numerics:
    """In which numbers an engine computes a model, by its own declaration; None: it cannot tell.

    `weights` is the type of the matrices as the engine holds them (`bf16`, `f32`, `q4_1`: GGUF's
    names in lower case), `compute` the type of what its products multiply (`f32`, `bf16`, `f16`,
    `int8`), `kv_cache` that of keys and values. `is_reference`: the implementation that others are
    held against where nobody says otherwise. `weight_bits`: of a matrix' value with its share of
    scales, where the name of the type does not tell.
    """

    weights: str | None = None
    compute: str | None = None
    kv_cache: str | None = None
    is_reference: bool = False
    weight_bits: float | None = None

    def __str__(self) -> str:
        """`q4_1 weights, int8 products, f16 KV cache`; empty if nothing is known."""
        parts = ((self.weights, "weights"), (self.compute, "products"), (self.kv_cache, "KV cache"))
        return ", ".join(f"{kind} {what}" for kind, what in parts if kind)


@runtime_checkable
class TellsNumerics(Protocol):
    """An engine that says in which precision it runs; engines need not."""

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """Cheap. `log` is what its server has printed by the time it is ready."""
        ...


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A command that measures what a machine can do at most; `enginebench.ceilings` says what it
    prints. It is started as engines are: pinned to its cores, seeing its GPUs only.
    """

    name: str
    argv: tuple[str, ...]
    measures_gpus: bool = False


@runtime_checkable
class TellsMetrics(Protocol):
    """An engine whose server has Prometheus metrics at /metrics; engines need not.

    `server_metrics` are the names under which the server counts, by the common names of
    `enginebench.scrape`, which also says how they are read.
    """

    server_metrics: Mapping[str, Sequence[str]]


# ---------------------------------------------------------------- workloads, metrics, reports


@runtime_checkable
class Workload(Protocol):
    """A workload plugin: turns a cell into a list of requests. Pure and seeded."""

    name: str
    summary: str
    options: Sequence[Option]

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """Every request the cell may need (closed loop: an upper bound, taken in order).

        Deterministic in `cell.seed`; warm-up requests come first and are counted in.
        """
        ...


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric's name (units inside: `ttft_s_p50`), meaning, and which direction is better."""

    name: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    help: str


@runtime_checkable
class RecordedWorkload(Workload, Protocol):
    """A workload with a timing of its own, a trace, say: `--rate 1x` replays it as it was."""

    def recorded_rate_rps(self, spec: WorkloadSpec) -> float:
        """The mean rate at which the requests that `spec` stands for were recorded."""
        ...


@dataclass(frozen=True, slots=True)
class Flag:
    """One reason to doubt a cell. `name` is stable, for machines; `reason` is for people.

    Figures of an `invalid` cell are not to be quoted; of one with a `caution`, not without it.
    """

    level: Literal["invalid", "caution"]
    name: str
    reason: str


@runtime_checkable
class Metric(Protocol):
    """A metric plugin: derives one or several figures from a cell's raw facts."""

    @property
    def columns(self) -> Sequence[MetricInfo]:
        """What `compute` gives, in the order in which it is shown."""
        ...

    def compute(self, cell: CellResult) -> Mapping[str, float | None]:
        """One value for each column; None where the cell cannot tell (never NaN)."""
        ...


@runtime_checkable
class Report(Protocol):
    """A report plugin: renders a ResultSet into files."""

    name: str
    summary: str

    def render(self, results: ResultSet, folder: Path) -> Sequence[Path]:
        """Write into `folder` (it exists); return what was written, the main file first."""
        ...
