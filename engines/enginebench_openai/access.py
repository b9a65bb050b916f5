"""Who may ask, from where, and what is written down about it.

Keys are compared as digests in constant time, so that neither content nor length leaks; which one
matched is only known by its number, which is also who the client is to the queue. Browsers of
other origins are let in by name only.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

__all__ = ["Access", "client_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`api_keys` empty: no key is asked for. `cors_origins` empty: no browser of another origin.

    `log_requests` writes a line for each answer; `log_prompts` also what was asked.
    """

    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    log_requests: bool = False
    log_prompts: bool = False

    def digests(self) -> tuple[bytes, ...]:
        """Of all keys, in their order."""
        return tuple(hashlib.sha256(key.encode()).digest() for key in self.api_keys)


def key_number(digests: tuple[bytes, ...], headers: Headers) -> int | None:
    """Which key the request carries, from 1 on. All are compared, whichever fits."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
    found = None
    for number, known in enumerate(digests, start=1):
        if hmac.compare_digest(digest, known) and scheme.lower() == "bearer":
            found = number
    return found


def client_of(scope: Mapping[str, Any]) -> str:
    """Who asks: the key that was shown, else the address."""
    key = scope["state"].get("key_number")
    if key is not None:
        return f"key {key}"
    address = scope.get("client")
    return address[0] if address else ""
