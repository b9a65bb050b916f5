"""The requests of a job, read and encoded before the timed path begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from enginebench.drive import DriveJob
from enginebench.types import Request
from enginebench_workloads.connection import Address
from enginebench_workloads.negotiation import refused_extensions
from enginebench_workloads.wire import WireRequest, encode

__all__ = ["WireRequests"]


@dataclass(frozen=True, slots=True)
class WireRequests:
    """`first` are those that follow no other; `turns` the others, by what they follow.

    A turn can only be encoded when the answers before it are known: `encode` does.
    """

    first: Sequence[WireRequest]
    turns: Mapping[int, WireRequest]
    job: DriveJob
    address: Address
    without: Collection[str]

    @classmethod
    def read(cls, job: DriveJob, address: Address) -> Self:
        """Those of `job.requests_path`, without the fields that the server turns out to refuse."""
        decode = msgspec.json.Decoder(Request).decode
        lines = Path(job.requests_path).read_bytes().splitlines()
        requests = [decode(line) for line in lines if line]
        without = refused_extensions(job, address, requests[0]) if requests else frozenset()
        first = [encode(r, job, address, without=without) for r in requests if r.follows is None]
        turns = {r.follows: WireRequest(r, b"") for r in requests if r.follows is not None}
        return cls(first, turns, job, address, without)

    def encode(self, request: Request) -> WireRequest:
        """A request as these are encoded."""
        return encode(request, self.job, self.address, without=self.without)
