"""From an opened model and options to an engine on the GPU that this process may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from enginebench.errors import ModelError, UsageError
from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai.grammar import Grammars
from enginebench_quant.cache_file import fingerprint
from enginebench_quant.drafts import Drafter, NgramDrafter
from enginebench_quant.engine import QuantEngine
from enginebench_quant.gpu.cache import GPU_KV_TYPES
from enginebench_quant.gpu.engine import GpuEngine
from enginebench_quant.gpu.layer_split import Split
from enginebench_quant.gpu.logits import LogitsModel
from enginebench_quant.gpu.model import GpuModel
from enginebench_quant.gpu.room import fitting_split
from enginebench_quant.gpu.split_model import SplitModel
from enginebench_quant.gpu.techniques import Techniques
from enginebench_quant.gpu.weights import refuse_foreign
from enginebench_quant.load import NGRAM, load_model, model_drafter, open_draft
from enginebench_quant.load import load_engine as load_on_cpu
from enginebench_quant.model_part import first_layers, last_layers
from enginebench_quant.options import AUTO, CPU_OPTIONS, OPTIONS, QuantOptions

__all__ = ["load_engine", "load_runner", "load_split", "open_on_gpu"]

Log = Callable[[str], None]


def load_engine(
    model: Model, options: QuantOptions, chosen: Mapping[str, OptionValue], *, log: Log
) -> QuantEngine:
    """Weights where they fit, kernels compiled, graphs captured."""
    draft = None
    if options.draft not in (None, NGRAM):
        draft = open_draft(str(options.draft), model)  # refused before anything is loaded
    runner = open_on_gpu(model, options, chosen, log=log)
    if runner is None:
        return load_on_cpu(model, options, log=log)
    drafter: Drafter | None = NgramDrafter(options.draft_tokens) if options.draft else None
    if draft is not None:
        context = min(options.context, draft.config.context_length)
        techniques = _techniques(options)
        device = torch.device("cuda", 0)
        guesser = LogitsModel(draft, context=context, device=device, techniques=techniques)
        drafter = model_drafter(guesser, options, context)
    return make_engine(model, options, runner, drafter)


def open_on_gpu(
    model: Model, options: QuantOptions, chosen: Mapping[str, OptionValue], *, log: Log
) -> GpuModel | SplitModel | None:
    """The model on the first visible GPU, or on the CPU and it; None where no layer fits."""
    began, device = time.monotonic(), torch.device("cuda", 0)
    torch.cuda.set_device(device)
    split = choose_split(model, options, [torch.cuda.mem_get_info(device)[0]], log=log)
    n_layers = model.config.n_layers
    if split.cpu == n_layers:
        return None
    _check_options(split, chosen, options)
    runner = load_runner(model, options, split, device, log=log)
    own = runner.last if isinstance(runner, SplitModel) else runner
    own.close()
    torch.cuda.empty_cache()
    log(
        f"{torch.cuda.get_device_name(device)}: {n_layers - split.cpu} of {n_layers} layers, "
        f"{torch.cuda.memory_reserved(device) / 1e9:.2f} GB taken, {own.cache.n_bytes / 1e9:.2f} "
        f"of it for {options.context} positions; ready after {time.monotonic() - began:.1f} s"
    )
    return runner


def load_runner(
    model: Model, options: QuantOptions, split: Split, device: torch.device, *, log: Log
) -> GpuModel | SplitModel:
    """All of the model on the device, or its first layers on the CPU."""
    if split.cpu == 0:
        return GpuModel(
            model,
            context=options.context,
            device=device,
            kv_type=options.kv_type,
            techniques=_techniques(options),
        )
    return load_split(model, options, split, device, log=log)


def load_split(
    model: Model, options: QuantOptions, split: Split, device: torch.device, *, log: Log
) -> SplitModel:
    """The last layers on the device, then the first ones on the CPU."""
    count = model.config.n_layers - split.cpu
    last = LogitsModel(
        last_layers(model, count),
        context=options.context,
        device=device,
        begins=False,
        kv_type=options.kv_type,
        techniques=_techniques(options),
    )
    first = load_model(first_layers(model, split.cpu), options, log=log)
    return SplitModel(first, last)


def make_engine(
    model: Model,
    options: QuantOptions,
    runner: GpuModel | SplitModel,
    drafter: Drafter | None = None,
) -> QuantEngine:
    """An engine over a loaded model."""
    common: dict[str, Any] = {
        "context": options.context,
        "prompt_cache": options.prompt_cache,
        "samplers": options.samplers,
        "grammars": Grammars(model.tokenizer, model.config.vocab_size),
        "drafter": drafter,
        "keep_tokens": options.keep_tokens if options.context_shift else None,
        "cache_mark": fingerprint(model, _cache_layout(runner, options.kv_type)),
    }
    if isinstance(runner, SplitModel):
        return QuantEngine(runner, **common)
    return GpuEngine(runner, techniques=_techniques(options), **common)


def _cache_layout(runner: GpuModel | SplitModel, kv_type: str) -> str:
    """What files of caches must agree in beside the model: in f16 nothing."""
    if kv_type == "f16":
        return kv_type
    on_cpu = runner.first.cache.n_layers if isinstance(runner, SplitModel) else 0
    lanes = f", {on_cpu} layers by {runner.first.lanes}" if isinstance(runner, SplitModel) else ""
    return f"{kv_type} on a GPU{lanes}"


def choose_split(model: Model, options: QuantOptions, free: list[int], *, log: Log) -> Split:
    """As `gpu_layers` says; `auto` says what it chose."""
    config, wanted = model.config, options.gpu_layers
    if wanted != AUTO:
        refuse_foreign(model)
        n_layers = config.n_layers if wanted is None else int(wanted)
        return fitting_split(model, options.context, free, n_layers, options.kv_type)
    try:
        refuse_foreign(model)
    except ModelError as error:
        log(f"gpu_layers=auto: none of {config.n_layers}, all on the CPU: {error}")
        return Split(config.n_layers, (0,) * len(free))
    split = fitting_split(model, options.context, free, None, options.kv_type)
    log(
        f"gpu_layers=auto: {config.n_layers - split.cpu} of {config.n_layers} layers fit the "
        f"{sum(free) / 1e9:.2f} GB that the GPU has free, {split.cpu} stay on the CPU"
    )
    return split


def _techniques(options: QuantOptions) -> Techniques:
    return Techniques.of(asdict(options))


def _check_options(split: Split, chosen: Mapping[str, OptionValue], options: QuantOptions) -> None:
    """UsageError for what would be ignored, or cannot be computed."""
    if options.kv_type not in GPU_KV_TYPES:
        raise UsageError(
            f"kv_type {options.kv_type} is for the CPU, and a GPU computes here: take one of "
            f"{', '.join(GPU_KV_TYPES)}, or run on hardware cpu"
        )
    defaults = {option.name: option.default for option in OPTIONS}
    for name in CPU_OPTIONS:
        if split.cpu == 0 and chosen.get(name, defaults[name]) != defaults[name]:
            raise UsageError(
                f"{name} is for layers on the CPU, and the GPU computes all: leave {name} out, set "
                "gpu_layers, or run on hardware cpu"
            )
