"""Finds out, with short requests, which fields beyond OpenAI's API a server refuses."""

from __future__ import annotations

import sys

import gevent

from enginebench.drive import DriveJob
from enginebench.types import Request
from enginebench_workloads.connection import Address, Connection
from enginebench_workloads.exchange import Exchange, HttpError
from enginebench_workloads.link import connect
from enginebench_workloads.sse import read_answer
from enginebench_workloads.wire import EXTENSIONS, encode

__all__ = ["refused_extensions"]


def refused_extensions(job: DriveJob, address: Address, like: Request) -> frozenset[str]:
    """The names of the fields to leave out, asked with a one-token version of `like`."""
    without: set[str] = set()
    for _ in EXTENSIONS:
        refused = _refused(job, address, like, without)
        if refused is None:
            break
        print(f"the server refuses {refused}: left out", file=sys.stderr)
        without.add(refused)
    return frozenset(without)


def _refused(job: DriveJob, address: Address, like: Request, without: set[str]) -> str | None:
    probe = Request(like.index, like.prompt, 1, None, like.body)
    data = encode(probe, job, address, without=without).data
    exchange = Exchange()
    connection = Connection(lambda: connect(address.host, address.port, tls=address.tls))
    try:
        with gevent.Timeout(job.request_timeout_s, False):
            connection.exchange(data, exchange)
    except (OSError, HttpError):
        return None  # the measured requests will tell
    finally:
        connection.close()
    if exchange.status not in (400, 422):
        return None
    message = read_answer(exchange).error or ""
    return next((name for name in EXTENSIONS if name in message and name not in without), None)
