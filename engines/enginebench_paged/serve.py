"""The server process of the paged engine: `python -m enginebench_paged.serve --model NAME`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai import TokenEngine, parse_arguments, serve_main
from enginebench_paged.options import OPTIONS
from enginebench_paged.parallel.layout import layout
from enginebench_paged.parallel.place import Place, torchrun_place
from enginebench_paged.threads import spin_briefly

if TYPE_CHECKING:
    from enginebench_paged.engine import PagedEngine
    from enginebench_paged.parallel.lead import LeadEngine
    from enginebench_paged.parallel.ranks import Ranks

__all__ = ["main"]

DESCRIPTION: Final = "Paged attention and continuous batching on GPUs or a CPU."


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> TokenEngine:
    """Build the engine; torch is imported here, so that a wrong command line fails at once."""
    spin_briefly()
    engine = _build(model, options)
    print(engine.precision, flush=True)
    return engine


def _build(model: Model, options: Mapping[str, OptionValue]) -> PagedEngine | LeadEngine:
    if (count := layout(options).processes) > 1:
        from enginebench_paged.parallel.lead import build_lead

        return build_lead(model, options, count)
    from enginebench_paged.engine import PagedEngine

    return PagedEngine(model, options)


def main() -> None:
    """Serve until told to stop; as one of torchrun's processes but the first, compute only."""
    argv, place = sys.argv[1:], torchrun_place()
    if place is not None:
        if place.rank > 0:
            _compute(argv, place)
        argv = [*argv, "--engine-restarts", "0"]  # that is torchrun's affair
    serve_main(
        argv,
        description=DESCRIPTION,
        options=OPTIONS,
        make_engine=make_engine,
        layout=layout,
    )


def _compute(argv: Sequence[str], place: Place) -> NoReturn:
    from enginebench_paged.parallel.follower import serve_rank

    asked = parse_arguments(argv, program="serve", description=DESCRIPTION, options=OPTIONS)

    def meet() -> Ranks:
        from enginebench_paged.parallel.meeting import join

        layout(asked.options)
        return join(place, None)

    serve_rank(meet, asked.models[0][1], asked.options)


if __name__ == "__main__":
    main()
