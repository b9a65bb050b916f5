"""`python -m enginebench_quant.serve`: the quant engine behind the OpenAI-compatible server."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai import serve_main
from enginebench_openai.protocol import TokenEngine
from enginebench_quant.gpu.visible import visible_gpus
from enginebench_quant.options import GPU_OPTIONS, OPTIONS, QuantOptions

__all__ = ["main", "make_engine"]


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> TokenEngine:
    """The model on the GPU that this process may use, else packed for this CPU; or split."""
    resolved = QuantOptions.resolve(options, model.config)
    if visible_gpus() and resolved.gpu_layers != 0:
        from enginebench_quant.gpu.load import load_engine

        return load_engine(model, resolved, options, log=_log)
    from enginebench_quant.load import load_engine as load_on_cpu

    _refuse_gpu_options(resolved)
    return load_on_cpu(model, resolved, log=_log)


def _refuse_gpu_options(options: QuantOptions) -> None:
    """UsageError for what would be ignored."""
    if isinstance(options.gpu_layers, int) and options.gpu_layers > 0:
        raise UsageError(
            f"gpu_layers={options.gpu_layers}: this process may use no GPU; run on hardware "
            "cuda:0, or leave gpu_layers out"
        )
    for name in GPU_OPTIONS:
        if getattr(options, name) is not None:
            raise UsageError(f"{name} is for layers on a GPU, and there are none: leave it out")


def _log(message: str) -> None:
    print(f"quant: {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Serve until told to stop."""
    serve_main(
        sys.argv[1:],
        description="Serve a GGUF model from quantized weights, one request at a time.",
        options=OPTIONS,
        make_engine=make_engine,
    )


if __name__ == "__main__":
    main()
