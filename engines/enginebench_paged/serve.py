"""The server process of the paged engine: `python -m enginebench_paged.serve --model NAME`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai import TokenEngine, serve_main
from enginebench_paged.options import OPTIONS
from enginebench_paged.threads import spin_briefly

__all__ = ["main"]


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> TokenEngine:
    """Build the engine; torch is imported here, so that a wrong command line fails at once."""
    spin_briefly()
    from enginebench_paged.engine import PagedEngine

    engine = PagedEngine(model, options)
    print(engine.precision, flush=True)
    return engine


def main() -> None:
    """Serve until told to stop."""
    serve_main(
        sys.argv[1:],
        description="Paged attention and continuous batching on a GPU or a CPU.",
        options=OPTIONS,
        make_engine=make_engine,
    )


if __name__ == "__main__":
    main()
