"""Every GPU kernel of the quant engine against its twin, on the GPU, on fresh random inputs.

Outputs are poisoned with NaN first. Then whole models: made-up weights through the kernels and
through the twins, and the same bits with and without early starts.
"""

from collections.abc import Callable

import torch
from gpu_timing import Bench, Ceilings
from quant_gpu_planes import random_planes
from torch import Tensor

from enginebench_models import open_model
from enginebench_openai.protocol import SamplingParams
from enginebench_quant.gpu.model import GpuModel
from enginebench_quant.gpu.techniques import Techniques
from enginebench_quant.kernels.gpu import (
    attention_decode,
    attention_prefill,
    choose,
    dense,
    elementwise,
    expand,
    ops,
    product,
    reference,
)
from enginebench_quant.kernels.gpu.planes import FORMATS, Planes
from enginebench_quant.kernels.gpu.sight import Sight
from enginebench_quant.kernels.gpu.vector import (
    PACKED_HEADS,
    empty_vector,
    pack_vector,
    unpack_vector,
)

CUDA = torch.device("cuda", 0)
ATTENTION = (
    (4, 2, 16), (8, 2, 64), (9, 3, 64), (16, 2, 128), (32, 8, 128), (32, 32, 128), (8, 4, 256)
)  # fmt: skip


def error(found: Tensor, expected: Tensor) -> float:
    """Relative distance; NaN counts as infinite."""
    distance = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(torch.nan_to_num(distance, nan=torch.inf))


class Checks:
    """Counts what passes, names what does not."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.passed = self.failed = 0
        self.worst: dict[str, float] = {}

    def __call__(self, what: str, found: Tensor, expected: Tensor, limit: float) -> None:
        off = error(found, expected)
        group = what.split()[0]
        self.worst[group] = max(self.worst.get(group, 0.0), off)
        self.true(what, off <= limit, f"off by {off:.1e}, limit {limit:.0e}")

    def print(self, what: str) -> None:
        worst = ", ".join(f"{group} {off:.1e}" for group, off in self.worst.items())
        print(f"CHECKS {what}: {self.passed} passed, {self.failed} failed; {worst}", flush=True)

    def true(self, what: str, good: bool, why: str = "") -> None:
        self.passed += good
        self.failed += not good
        if not good:
            self.bench.note("WRONG", what, why)


def check(bench: Bench, ceilings: Ceilings) -> None:
    checks = Checks(bench)
    for part in (_dense, _expansions, _attention, _rows, _choices, _models):
        try:
            part(checks)
        except Exception as problem:  # one broken kernel must not hide the others' results
            checks.true(part.__name__, False, f"{type(problem).__name__}: {str(problem)[:300]}")
            if "CUDA error" in str(problem):
                raise
    checks.print("other kernels, models")


def check_kind(kind: str, bench: Bench) -> None:
    checks = Checks(bench)
    _products(checks, kind)
    checks.print(kind)


def _nans(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=CUDA)


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, device=CUDA)


def _products(checks: Checks, kind: str) -> None:
    for rows, columns in ((37, 768), (4096, 2048), (576, 11008)):
        a, b = (random_planes(kind, rows, columns, seed) for seed in (1, 2))
        q6 = random_planes("Q6_K", 33, columns, 3)
        x, norm, bias = _randn(columns), torch.rand(columns, device=CUDA) + 0.5, _randn(rows)
        for label, matrices, options in (
            ("plain", [a], {}),
            ("norm+bias", [a], {"norm": norm, "eps": 1e-5, "bias": bias}),
            ("two", [a, q6], {"norm": norm, "eps": 1e-5}),
        ):
            found, expected = _nans(2, sum(m.rows for m in matrices))
            product.product(x, matrices, found, **options)
            reference.product(x, matrices, expected, **options)
            checks(f"product {kind} {rows}x{columns} {label}", found, expected, 1e-4)
        found = _randn(rows)
        expected = found.clone()
        product.product(x, [a], found, add=True)
        reference.product(x, [a], expected, add=True)
        checks(f"product {kind} {rows}x{columns} add", found, expected, 1e-4)
        found, expected = _nans(2, rows)
        product.gate_up(x, a, b, found, norm=norm, eps=1e-5)
        reference.gate_up(x, a, b, expected, norm=norm, eps=1e-5)
        checks(f"gate_up {kind} {rows}x{columns}", found, expected, 1e-3)
        if rows % 32 == 0:
            _packed_gate_up(checks, f"gate_up {kind} {rows}x{columns} packed", x, a, b, norm)
        packed = empty_vector(columns, CUDA)
        pack_vector(x, packed)
        found, expected = _nans(2, rows)
        product.product(packed, [a], found)
        reference.product(x, [a], expected)
        checks(f"product {kind} {rows}x{columns} packed", found, expected, 1e-4)


def _packed_gate_up(
    checks: Checks, what: str, x: Tensor, a: Planes, b: Planes, norm: Tensor
) -> None:
    """Each code is the nearest to the exact value: no more than half a step off."""
    packed, exact = empty_vector(a.rows, CUDA), _nans(a.rows)
    packed.scales.fill_(torch.nan)
    product.gate_up(x, a, b, packed, norm=norm, eps=1e-5)
    reference.gate_up(x, a, b, exact, norm=norm, eps=1e-5)
    steps = (unpack_vector(packed) - exact).abs().view(-1, 32) / packed.scales[:, None]
    furthest = float(torch.nan_to_num(steps, nan=torch.inf).max())
    checks.true(what, furthest <= 0.501, f"a code is {furthest:.3f} steps off")
    sums = packed.words.view(torch.int8).view(2, -1, 16).sum(-1).T
    same = torch.equal(packed.sums.view(torch.int16).view(-1, 2).long(), sums)
    checks.true(what, same, "sums are not those of the codes")


def _dense(checks: Checks) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weight, x, norm = _randn(50, 1500).to(dtype), _randn(1500), _randn(1500)
        found, expected = _nans(2, 50)
        dense.dense_product(x, weight, found, norm=norm, eps=1e-5)
        reference.dense_product(x, weight, expected, norm=norm, eps=1e-5)
        checks(f"dense {dtype}", found, expected, 1e-5)


def _expansions(checks: Checks) -> None:
    ids = torch.tensor([5, 0, 36], dtype=torch.int32, device=CUDA)
    for kind in FORMATS:
        matrix = random_planes(kind, 37, 2816, 4)
        for dtype in (torch.float32, torch.bfloat16):
            for rows in (None, ids):
                found, expected = _nans(2, 37 if rows is None else 3, 2816, dtype=dtype)
                expand.expand(matrix, found, ids=rows)
                reference.expand(matrix, expected, ids=rows)
                checks(f"expand {kind} {dtype}", found, expected, 1e-6)


def _attention(checks: Checks) -> None:
    for heads, kv_heads, dim in ATTENTION:
        for past, normed in ((0, False), (1, True), (33, False), (640, True), (3000, False)):
            label = f"{heads}/{kv_heads}x{dim} after {past}"
            cache = _randn(2, kv_heads, 3600, dim).half()
            twin = cache.clone()
            cos_sin = _randn(3600, dim) / 2
            norms = {"q_norm": _randn(dim), "k_norm": _randn(dim), "eps": 1e-6} if normed else {}
            sight = Sight(dim**-0.5, window=100, softcap=30.0) if past == 640 else None
            position = torch.tensor([past], dtype=torch.int32, device=CUDA)
            qkv = _randn((heads + 2 * kv_heads) * dim)
            work = attention_decode.AttentionWorkspace(heads, kv_heads, dim, 3600, CUDA)
            for _ in range(2):  # the second launch needs the counters that the first left
                found, expected = _nans(2, heads * dim)
                attention_decode.decode_attention(
                    qkv, position, cos_sin, *cache, found, work, sight=sight, **norms
                )
            reference.decode_attention(
                qkv, position, cos_sin, *twin, expected, None, sight=sight, **norms
            )
            checks(f"decode {label}", found, expected, 4e-3)
            if dim in PACKED_HEADS:
                packed, packed_twin = (empty_vector(heads * dim, CUDA) for _ in range(2))
                packed.scales.fill_(torch.nan)
                attention_decode.decode_attention(
                    qkv, position, cos_sin, *cache, packed, work, sight=sight, **norms
                )
                pack_vector(expected, packed_twin)
                values = unpack_vector(packed), unpack_vector(packed_twin)
                checks(f"decode {label} packed", *values, 1e-2)
            checks(f"cache {label}", cache.float(), twin.float(), 1e-4)
            _chunk_attention(checks, label, heads, past, cache, cos_sin, norms, sight)


def _chunk_attention(  # type: ignore[no-untyped-def]
    checks, label, heads, past, cache, cos_sin, norms, sight
) -> None:
    kv_heads, dim = cache.shape[1], cache.shape[3]
    tokens, twin = 512, cache.clone()
    span = torch.tensor([past, 407], dtype=torch.int32, device=CUDA)
    qkv, bias = (
        _randn(tokens, (heads + 2 * kv_heads) * dim).bfloat16(),
        _randn((heads + 2 * kv_heads) * dim),
    )
    found, expected = _nans(2, tokens, heads, dim, dtype=torch.float16)
    elementwise.rope_and_cache(qkv, span, cos_sin, *cache, found, bias=bias, **norms)
    reference.rope_and_cache(qkv, span, cos_sin, *twin, expected, bias=bias, **norms)
    checks(f"rope {label}", found[:407], expected[:407], 1e-3)
    checks(f"cache {label}", cache.float(), twin.float(), 1e-3)
    out, twin_out = _nans(2, tokens, heads, dim, dtype=torch.bfloat16)
    attention_prefill.prefill_attention(expected, span, *twin, out, sight=sight)
    reference.prefill_attention(expected, span, *twin, twin_out, sight=sight)
    checks(f"prefill {label}", out[:407], twin_out[:407], 4e-3)


def _rows(checks: Checks) -> None:
    for columns in (300, 4096):
        x, delta, weight = _randn(17, columns), _randn(17, columns).bfloat16(), _randn(columns)
        twin = x.clone()
        found, expected = _nans(2, 17, columns, dtype=torch.bfloat16)
        elementwise.add_rms_norm(x, delta, weight, 1e-5, found)
        reference.add_rms_norm(twin, delta, weight, 1e-5, expected)
        checks("add_rms_norm sum", x, twin, 1e-6)
        checks("add_rms_norm", found, expected, 4e-3)
        found, expected = _randn(2, 1, columns).repeat(1, 17, 1)
        expected.copy_(found)
        elementwise.norm_add(found, delta, weight, 1e-5)
        reference.norm_add(expected, delta, weight, 1e-5)
        checks("norm_add", found, expected, 1e-5)
        gate_up = _randn(17, 2 * columns).bfloat16()
        found, expected = _nans(2, 17, columns, dtype=torch.bfloat16)
        for activation in ("silu", "gelu_tanh"):
            elementwise.gate_mul(gate_up, found, activation=activation)
            reference.gate_mul(gate_up, expected, activation=activation)
            checks(f"gate_mul {activation}", found, expected, 4e-3)


def _choices(checks: Checks) -> None:
    for size in (4, 1000, 151936):
        logits = _randn(size) * 3
        seen, counts = ((torch.rand(size, device=CUDA) < 0.1).int() for _ in range(2))
        settings = torch.tensor([0.7, 1.3, 0.5, 0.2], device=CUDA)
        found, expected = _nans(2, size)
        choose.scaled_logits(logits, seen, counts, settings, found)
        reference.scaled_logits(logits, seen, counts, settings, expected)
        checks("scaled_logits", found, expected, 1e-5)
        settings[0] = 0
        state = torch.tensor([0, 9], dtype=torch.int32, device=CUDA)
        twin_state = state.clone()
        tiles = -(-size // choose.TILE)
        scratch = (
            _randn(tiles),
            torch.zeros(tiles, dtype=torch.int32, device=CUDA),
            torch.zeros(1, dtype=torch.int32, device=CUDA),
        )
        bar = torch.full((1,), -torch.inf, device=CUDA)
        seed = torch.tensor([3], device=CUDA)
        for _ in range(3):
            twin_counts, twin_seen = counts.clone(), seen.clone()
            choose.choose(logits, seen, counts, settings, bar, seed, state, scratch)
            reference.choose(logits, twin_seen, twin_counts, settings, bar, seed, twin_state, None)
            checks.true(f"choose {size}", torch.equal(state, twin_state), f"{state} {twin_state}")
            checks.true(f"choose {size} counts", torch.equal(counts, twin_counts))
            checks.true(f"choose {size} seen", torch.equal(seen, twin_seen))


def _models(checks: Checks) -> None:
    for name in ("smollm2-135m@q4_1", "qwen2.5-0.5b@q4_k_m"):
        model = open_model(f"synthetic:{name}")
        logits, tokens = _generate(lambda model=model: GpuModel(model, context=256, device=CUDA))
        late = Techniques(early_launch=False)
        plain_logits, plain = _generate(
            lambda model=model, late=late: GpuModel(
                model, context=256, device=CUDA, techniques=late
            )
        )
        same = torch.equal(logits, plain_logits) and tokens == plain
        checks.true(f"model {name}", same, "RACE: differs with early starts")
        for off in ("cuda_graphs", "split_kv", "fused_ops"):
            techniques = Techniques.of({off: False})
            other_logits, _ = _generate(
                lambda model=model, own=techniques: GpuModel(
                    model, context=256, device=CUDA, techniques=own
                ),
                forced=tokens,
            )
            checks(f"model {name} without {off}", logits, other_logits, 5e-2)
        _rows_alone(checks, name, model, tokens)
        twin_logits, _ = _generate(lambda model=model: _twin_model(model), forced=tokens)
        checks(f"model {name} logits", logits, twin_logits, 5e-2)


def _rows_alone(checks: Checks, name: str, model, tokens: list[int]) -> None:  # type: ignore[no-untyped-def]
    """Several tokens in one pass give each, bit for bit, what it gets alone."""
    runner = GpuModel(model, context=256, device=CUDA)
    prompt = [(37 * i + 11) % 40_000 for i in range(70)]
    runner.forward(prompt, 0, want_logits=False)
    guesses = [*tokens, *prompt[: 8 - len(tokens)]]
    together = torch.from_numpy(runner.forward_rows(guesses, 70).copy())
    runner.forward(prompt, 0, want_logits=False)
    alone = [runner.forward([t], 70 + i).copy() for i, t in enumerate(guesses)]
    same = torch.equal(together, torch.stack([torch.from_numpy(row) for row in alone]))
    checks.true(f"model {name} rows", same, "several rows differ from each alone")


def _twin_model(model) -> GpuModel:  # type: ignore[no-untyped-def]
    """The twins on the GPU, without graphs, over the same made-up weights."""
    own, workspace = ops.kernels, ops.workspace
    ops.kernels = lambda device_type: reference
    ops.workspace = lambda *sizes, device, splits=None: None
    try:
        plain = Techniques(cuda_graphs=False)
        return GpuModel(model, context=256, device=CUDA, techniques=plain)
    finally:
        ops.kernels, ops.workspace = own, workspace


@torch.inference_mode()
def _generate(
    make: Callable[[], GpuModel], forced: list[int] | None = None
) -> tuple[Tensor, list[int]]:
    """Logits of the prefill's last and three decoded positions, and the greedy tokens.

    With `forced`, those tokens are fed instead, so that two runs see the same context.
    """
    runner = make()
    prompt = [(37 * i + 11) % 40_000 for i in range(70)]
    runner.begin(prompt, SamplingParams(temperature=0))
    runner.prefill(prompt, 0)
    tokens = [runner.token(runner.choose())]
    logits = [runner.program.step.logits[0].clone()]
    for index in range(3):
        if forced is not None:
            runner.program.state.token_and_position[0] = forced[index]
        tokens.append(runner.token(runner.decode()))
        logits.append(runner.program.step.logits[0].clone())
    return torch.stack(logits), tokens
