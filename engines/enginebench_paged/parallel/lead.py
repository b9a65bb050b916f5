"""The engine of several ranks, as the server sees it: the first rank's, whose every move the others
repeat.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput
from enginebench_paged.engine import PagedEngine
from enginebench_paged.parallel.crew import Crew
from enginebench_paged.parallel.meeting import join, meeting_point
from enginebench_paged.parallel.place import Place, torchrun_place
from enginebench_paged.parallel.post import Post
from enginebench_paged.parallel.ranks import Ranks
from enginebench_paged.parallel.shards import shard
from enginebench_paged.parallel.turns import Turn, hear, tell

__all__ = ["LeadEngine", "build_lead", "follow"]


def build_lead(model: Model, options: Mapping[str, OptionValue], count: int) -> LeadEngine:
    """The engine of `count` ranks, of which this process is the first."""
    shard(model, 0, count)  # says what is wrong before anything is started
    if options.get("deterministic") and count > 2:
        raise UsageError(
            f"deterministic with tensor_parallel={count}: sums over more than two ranks have no"
            " fixed order; leave one of them out, or use 2"
        )
    place = torchrun_place()
    if place is not None:
        _check_devices(place.here)
        ranks = join(place, None)
        return LeadEngine(PagedEngine(model, options, ranks), ranks, None)
    _check_devices(count)
    places = [Place(rank, count, rank, count) for rank in range(count)]
    crew = Crew([Post(model.info.name, dict(options), place) for place in places[1:]])
    store = meeting_point(count)
    crew.meet_at(store.port)
    ranks = join(places[0], store)
    return LeadEngine(PagedEngine(model, options, ranks), ranks, crew)


class LeadEngine:
    """A `TokenEngine`; `crew` are the other ranks, where we started them."""

    def __init__(self, engine: PagedEngine, ranks: Ranks, crew: Crew | None = None) -> None:
        self._engine, self._ranks, self._crew = engine, ranks, crew
        self._news: list[GenerationRequest | str] = []
        self.config, self.precision = engine.config, engine.precision
        self.context_length = engine.context_length
        self.slots = engine.slots

    @property
    def features(self) -> frozenset[Feature]:
        return self._engine.features

    def add(self, request: GenerationRequest) -> None:
        """Queue a request, with a seed that all ranks draw from."""
        if request.sampling.seed is None:
            sampling = replace(request.sampling, seed=random.getrandbits(63))
            request = replace(request, sampling=sampling)
        self._engine.add(request)  # one that is refused here is none for the others either
        self._news.append(request)

    def abort(self, request_id: str) -> None:
        """Forget a request."""
        self._engine.abort(request_id)
        self._news.append(request_id)

    def has_work(self) -> bool:
        """Whether anything is to be computed or fetched."""
        return self._engine.has_work()

    def step(self) -> Sequence[TokenOutput]:
        """A step of all ranks."""
        tell(self._ranks, Turn(tuple(self._news)))
        self._news.clear()
        return self._engine.step()

    def stats(self) -> EngineStats:
        """Those of any rank: they count the same."""
        return self._engine.stats()

    def close(self) -> None:
        """End all ranks."""
        if self._crew is not None:
            self._crew.release()
        with suppress(RuntimeError):  # some rank has gone already
            tell(self._ranks, Turn(last=True))
        self._engine.close()
        if self._crew is not None:
            self._crew.see_off()


def follow(engine: PagedEngine, ranks: Ranks) -> None:
    """What every other rank does until it is told to end."""
    while not (turn := hear(ranks)).last:
        for command in turn.commands:
            if isinstance(command, str):
                engine.abort(command)
            else:
                engine.add(command)
        engine.step()
    engine.close()


def _check_devices(needed: int) -> None:
    if torch.cuda.is_available() and (seen := torch.cuda.device_count()) < needed:
        raise UsageError(
            f"{needed} ranks need a GPU each, and this process sees {seen}: name so many, as in"
            f" --hardware cuda:{','.join(map(str, range(needed)))}, or lower tensor_parallel"
        )
