"""One server for all tests that only ask it things."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai_fakes import ScriptedEngine, serving


@pytest.fixture(scope="session")
def shared():
    with serving(ScriptedEngine()) as running:
        yield running


@pytest.fixture(scope="session")
def http(shared):
    with httpx.Client(base_url=shared.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def both_engines(tiny_gguf):
    """The address of a server with both real engines: "paged" and "quant"."""
    from two_engines import serving_both  # torch and numba, which other tests do without

    with serving_both(tiny_gguf("f32")) as url:
        yield url


@pytest.fixture(scope="session")
def client(both_engines):
    """The official client of that server."""
    with openai.OpenAI(base_url=f"{both_engines}/v1", api_key="none", max_retries=0) as client:
        yield client
