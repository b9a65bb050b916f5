"""One server for all tests that only ask it things."""

from __future__ import annotations

import httpx
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
