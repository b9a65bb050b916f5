"""From an opened model and resolved options to one that runs: CPU level, kernel cache, packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from enginebench.errors import ModelError, UsageError
from enginebench_models import Model, open_model
from enginebench_models.cache import cache_folder
from enginebench_openai.grammar import Grammars
from enginebench_quant.cache_file import fingerprint
from enginebench_quant.drafts import Drafter, DraftRunner, ModelDrafter, NgramDrafter
from enginebench_quant.engine import QuantEngine
from enginebench_quant.kernels.features import CpuLevel, choose_level
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel
from enginebench_quant.options import QuantOptions

__all__ = ["NGRAM", "load_engine", "load_model", "model_drafter", "open_draft"]

NGRAM = "ngram"
LEAST_DRAFT_P = 0.5  # a guess that the draft model finds less likely is not worth verifying


def load_engine(model: Model, options: QuantOptions, *, log: Callable[[str], None]) -> QuantEngine:
    """An engine on this CPU, with its drafter if one was asked for."""
    if options.draft not in (None, NGRAM):
        draft = open_draft(str(options.draft), model)  # refused before anything is packed
    tokenizer = model.tokenizer  # first: what building it leaves over is given back with the rest
    runner = load_model(model, options, log=log)
    most = options.context * runner.cache.position_bytes
    log(f"the KV cache takes {most / 1e6:.0f} MB when it is full ({options.kv_type})")
    drafter: Drafter | None = None
    if options.draft is not None:
        runner.prepare_rows()
        drafter = NgramDrafter(options.draft_tokens)
    if options.draft not in (None, NGRAM):
        context = min(options.context, draft.config.context_length)
        guesser = load_model(draft, replace(options, context=context), log=log)
        drafter = model_drafter(guesser, options, context)
    return QuantEngine(
        runner,
        context=options.context,
        prompt_cache=options.prompt_cache,
        samplers=options.samplers,
        grammars=Grammars(tokenizer, model.config.vocab_size),
        drafter=drafter,
        keep_tokens=options.keep_tokens if options.context_shift else None,
        cache_mark=fingerprint(model, _cache_layout(runner, options.kv_type)),
    )


def _cache_layout(runner: QuantModel, kv_type: str) -> str:
    """What files of caches must agree in beside the model."""
    return kv_type if kv_type == "f16" else f"{kv_type} by {runner.lanes}"


def open_draft(name: str, model: Model) -> Model:
    """The model that guesses for `model`; ModelError unless both have one vocabulary."""
    draft = open_model(name)
    own, other = model.tokenizer.pieces, draft.tokenizer.pieces
    if own != other:
        raise ModelError(
            f"draft {name} has another vocabulary ({len(other)} tokens) than {model.info.name} "
            f"({len(own)} tokens), so its guesses mean nothing there; take a smaller model of the "
            f"same family, or draft={NGRAM}"
        )
    return draft


def model_drafter(runner: DraftRunner, options: QuantOptions, context: int) -> ModelDrafter:
    """Guesses by a loaded model."""
    return ModelDrafter(runner, most=options.draft_tokens, context=context, least_p=LEAST_DRAFT_P)


def load_model(model: Model, options: QuantOptions, *, log: Callable[[str], None]) -> QuantModel:
    """Ready to compute; `log` hears of whatever takes long or runs slower than it should."""
    level = _level(options.cpu_level)
    if level.name == "plain":
        log("no vector instructions are used here (cpu_level plain): answers are right, but slow")
    kernels = Kernels(level, cache_folder() / "kernels", log)
    return QuantModel(
        model,
        kernels,
        context=options.context,
        threads=options.threads,
        kv_type=options.kv_type,
    )


def _level(name: str) -> CpuLevel:
    try:
        return choose_level(name)
    except ValueError as error:
        raise UsageError(f"quant: {error}") from error
