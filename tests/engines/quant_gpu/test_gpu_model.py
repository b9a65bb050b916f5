"""Whole tiny models: the twins against numpy and the CPU engine, the kernels against the twins."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_cases import relative_error

from enginebench.errors import ModelError
from enginebench_models import GGMLType, Model, open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenEngine
from enginebench_quant.candidates import Candidates
from enginebench_quant.engine import QuantEngine
from enginebench_quant.gpu.engine import GpuEngine
from enginebench_quant.gpu.model import GpuModel
from enginebench_quant.gpu.upload import Uploader
from enginebench_quant.gpu.weights import Weights
from enginebench_quant.kernels.features import supported_levels
from enginebench_quant.kernels.gpu import ops
from enginebench_quant.kernels.gpu.attention_decode import AttentionWorkspace
from enginebench_quant.kernels.gpu.planes import Planes, values
from enginebench_quant.kernels.reference import forward
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel
from enginebench_quant.penalties import TokenPenalties

_SPEC = importlib.util.spec_from_file_location(
    "quant_models", Path(__file__).parents[1] / "quant" / "quant_models.py"
)
assert _SPEC and _SPEC.loader
quant_models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(quant_models)
random_model, with_flags = quant_models.random_model, quant_models.with_flags

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0)
FLAGS = {
    "llama": {},
    "qwen2": {"attention_bias": True, "rope_pairs": "halves"},
    "qwen3": {"qk_norm": True, "tie_word_embeddings": False},
}
PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, 71, 40)]


@pytest.fixture
def triton_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs on the CPU launch the Triton kernels, in the interpreter."""
    launchers = ops._Triton()
    monkeypatch.setattr(ops, "kernels", lambda device_type: launchers)

    def workspace(*sizes, device, splits=None):
        return AttentionWorkspace(*sizes, device, splits=splits)

    monkeypatch.setattr(ops, "workspace", workspace)
    yield


def logits_of(model: Model, device: torch.device, fed: Sequence[int] = (5, 9, 2)) -> torch.Tensor:
    """After PROMPT in two chunks, and after each of `fed`, one token at a time."""
    runner = GpuModel(model, context=64, device=device)
    runner.begin(PROMPT, GREEDY)
    runner.prefill(PROMPT[:25], 0)
    runner.prefill(PROMPT[25:], 25)
    runner.token(runner.choose())
    found = [runner.program.step.logits[0].clone()]
    for token in fed:
        with torch.inference_mode():
            runner.program.state.token_and_position[0] = token
        runner.token(runner.decode())
        found.append(runner.program.step.logits[0].clone())
    return torch.stack(found).cpu()


def expected_logits(model: Model) -> torch.Tensor:
    tokens = np.array([*PROMPT, 5, 9, 2])
    shape = quant_models.reference_shape(model.config)
    logits = forward(shape, quant_models.reference_weights(model), tokens)
    return torch.from_numpy(logits[len(PROMPT) - 1 :])


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize(
    "kind, limit", [("F32", 2e-3), ("F16", 2e-3), ("Q8_0", 5e-2), ("Q4_1", 5e-2)]
)
def test_twins_compute_the_model(flags, kind, limit) -> None:
    """Int8 activations, which decoding has for packed weights, are what the limits are for."""
    model = random_model(with_flags(**flags), kind)
    assert relative_error(logits_of(model, CPU), expected_logits(model)) < limit


@pytest.mark.parametrize(
    "flags, kind, limit",
    [
        (FLAGS["llama"], "F16", 2e-3),
        pytest.param(FLAGS["qwen2"], "Q5_1", 5e-2, marks=pytest.mark.slow),
        pytest.param(FLAGS["qwen3"], "Q8_0", 5e-2, marks=pytest.mark.slow),
    ],
)
def test_kernels_compute_the_model(flags, kind, limit, triton_kernels, device) -> None:
    small = {"n_layers": 1, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 71}
    model = random_model(with_flags(n_heads=4, **small, **flags), kind)
    assert relative_error(logits_of(model, device), expected_logits(model)) < limit


PENALTIES = SamplingParams(
    temperature=0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2
)
REQUESTS = ((PROMPT, GREEDY), (PROMPT[:20], GREEDY), (PROMPT[:5], PENALTIES))


def answers_of(engine: TokenEngine) -> list[list[int]]:
    """The answer to each of REQUESTS."""
    found: list[list[int]] = [[] for _ in REQUESTS]
    for index, (prompt, sampling) in enumerate(REQUESTS):
        engine.add(GenerationRequest(str(index), tuple(prompt), 12, sampling))
    while engine.has_work():
        for output in engine.step():
            found[int(output.request_id)] += output.token_ids
    engine.close()
    return found


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_same_greedy_tokens_as_the_cpu_engine(flags, kind, request) -> None:
    """Where no activations are rounded the two agree, unless two tokens are as good as tied."""
    model = random_model(with_flags(**flags), kind)
    cache = Path(request.config.cache.mkdir("quant-kernels"))
    kernels = Kernels(supported_levels()[0], cache, lambda message: None)
    cpu = QuantEngine(QuantModel(model, kernels, context=64, threads=1), context=64)
    gpu = GpuEngine(GpuModel(model, context=64, device=CPU), context=64)
    agreed = 0
    for (prompt, sampling), a, b in zip(REQUESTS, answers_of(gpu), answers_of(cpu), strict=True):
        same = next((i for i in range(12) if a[i] != b[i]), 12)
        agreed += same
        if same < 12:
            logits = penalized_logits(model, prompt, a[:same], sampling)
            assert abs(logits[a[same]] - logits[b[same]]) < 2e-3 * logits.std()
    assert agreed > 12


def penalized_logits(
    model: Model, prompt: list[int], generated: list[int], sampling: SamplingParams
) -> np.ndarray:
    shape = quant_models.reference_shape(model.config)
    weights = quant_models.reference_weights(model)
    penalties = TokenPenalties(sampling, prompt, model.config.vocab_size)
    for token in generated:
        penalties.see(token)
    logits = forward(shape, weights, np.array([*prompt, *generated]))[-1]
    return penalties(Candidates.of(logits)).logits


def test_sampling_with_filters_is_repeatable() -> None:
    model = random_model(with_flags(), "Q4_0")
    engine = GpuEngine(GpuModel(model, context=64, device=CPU), context=64)
    runs = []
    for seed in (1, 1, 2):
        sampling = SamplingParams(temperature=1.5, top_k=40, top_p=0.95, min_p=0.01, seed=seed)
        engine.add(GenerationRequest("a", tuple(PROMPT), 12, sampling))
        run: list[int] = []
        while engine.has_work():
            for output in engine.step():
                run += output.token_ids
        runs.append(run)
    assert runs[0] == runs[1] != runs[2]


def test_weights_are_those_of_the_file() -> None:
    """Merged below each other; queries' and keys' rows brought to halves."""
    model = random_model(with_flags(), "Q4_0")
    weights = Weights(model, CPU)
    layer = weights.layers[1]
    parts = [model.weights[f"blk.1.attn_{part}.weight"].dequantize() for part in "qkv"]
    heads = [part.reshape(-1, 8, 2, 96).swapaxes(1, 2).reshape(-1, 96) for part in parts[:2]]
    assert len(layer.qkv) == 1 and isinstance(layer.qkv[0], Planes)
    assert np.array_equal(values(layer.qkv[0]).numpy(), np.concatenate([*heads, parts[2]]))
    gate_up = [model.weights[f"blk.1.ffn_{part}.weight"].dequantize() for part in ("gate", "up")]
    assert isinstance(layer.gate_up[0], Planes)
    assert np.array_equal(values(layer.gate_up[0]).numpy(), np.concatenate(gate_up))
    assert weights.head is weights.embedding
    assert Weights(model, CPU, begins=False).embedding is None


def test_mixed_types_stand_apart() -> None:
    model = open_model("synthetic:llama-3.2-1b@q4_k_m")
    small = replace(model.config, n_layers=2, vocab_size=512, intermediate_size=512)
    mixed = replace_config(model, small)
    weights = Weights(mixed, CPU)
    kinds = [[m.kind for m in layer.qkv if isinstance(m, Planes)] for layer in weights.layers]
    assert ["Q4_K", "Q6_K"] in kinds
    runner = GpuModel(mixed, context=32, device=CPU)
    runner.begin([1, 2], GREEDY)
    runner.prefill([1, 2], 0)
    runner.token(runner.choose())
    runner.token(runner.decode())
    assert torch.isfinite(runner.program.step.logits).all()


def replace_config(model: Model, config) -> Model:
    from enginebench_models.synthetic import synthetic_weights

    return replace(model, config=config, weights=synthetic_weights(config, "q4_k_m"))


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k_m", "bf16"])
def test_made_up_weights_have_the_spread_of_real_ones(kind) -> None:
    model = open_model("synthetic:llama-3.2-1b@" + kind)
    small = replace(model.config, n_layers=1, vocab_size=256, intermediate_size=256)
    from enginebench_models.synthetic import synthetic_weights

    weights = Weights(replace(model, config=small, weights=synthetic_weights(small, kind)), CPU)
    for matrix in (*weights.layers[0].matrices, weights.head):
        numbers = values(matrix) if isinstance(matrix, Planes) else matrix.float()
        assert abs(numbers.mean()) < 0.2 * numbers.std()
        assert 0.8 < numbers.std() * numbers.shape[1] ** 0.5 < 1.2


def test_the_uploader_sends_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginebench_quant.gpu.upload.PIECE_BYTES", 1000)
    rows = np.random.default_rng(0).integers(0, 256, (70, 33), dtype=np.uint8)
    found = torch.zeros(70, 33, dtype=torch.uint8)
    pieces = list(Uploader(CPU).pieces(rows))
    for begin, piece in pieces:
        found[begin : begin + len(piece)] = piece
    assert len(pieces) == 3 and np.array_equal(found.numpy(), rows)
    long = np.ones((2, 3000), np.uint8)
    assert [tuple(piece.shape) for _, piece in Uploader(CPU).pieces(long)] == [(1, 3000)] * 2


def test_types_without_a_kernel_are_named() -> None:
    model = random_model(with_flags(), "Q4_0")
    name = "blk.0.ffn_up.weight"
    broken = {**model.weights, name: replace(model.weights[name], type=GGMLType.Q3_K)}
    with pytest.raises(ModelError, match=r"'blk\.0\.ffn_up\.weight' is Q3_K, which has no GPU"):
        Weights(replace(model, weights=type(model.weights)(broken.values())), CPU)
