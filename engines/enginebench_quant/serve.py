"""`python -m enginebench_quant.serve`: the quant engine behind the OpenAI-compatible server."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai import serve_main
from enginebench_openai.protocol import TokenEngine
from enginebench_quant.gpu.visible import visible_gpus
from enginebench_quant.options import OPTIONS, QuantOptions

__all__ = ["main", "make_engine"]


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> TokenEngine:
    """The model on the GPU that this process may use, else packed for this CPU."""
    resolved = QuantOptions.resolve(options, model.config)
    if visible_gpus():
        from enginebench_quant.gpu.load import load_engine

        return load_engine(model, resolved, options, log=_log)
    from enginebench_quant.load import load_engine as load_on_cpu

    return load_on_cpu(model, resolved, log=_log)


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
