"""A stand-in for somebody else's server: records how it was called, and answers health checks."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

WAIT_S = 30.0
_SCRIPT = """\
#!{python}
import http.server, json, os, sys

ANSWERS, RECORD, HEALTH, UNREADY, PORT = {answers!r}, {record!r}, {health!r}, {unready!r}, {port!r}
with open(RECORD, "a") as file:
    file.write(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ)}}) + "\\n")
for word in sys.argv[1:]:
    if word in ANSWERS:
        print(ANSWERS[word])
        sys.exit(0)


class Server(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Server.asked += self.path == HEALTH
        ready = self.path == HEALTH and Server.asked > UNREADY
        self.send_response(200 if ready else 503)
        self.end_headers()


flagged = PORT in sys.argv
port = sys.argv[sys.argv.index(PORT) + 1] if flagged else os.environ[PORT].split(":")[1]
print("stub", os.path.basename(sys.argv[0]), "serves on", port, flush=True)
http.server.HTTPServer(("127.0.0.1", int(port)), Server).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Call:
    """How a stub was started to serve."""

    argv: list[str]
    env: dict[str, str]

    def value(self, flag: str) -> str:
        return self.argv[self.argv.index(flag) + 1]


class Stub:
    """A folder that is all of PATH, and what its programs were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._record = folder, folder / "calls.jsonl"
        monkeypatch.setenv("PATH", str(folder))

    def install(
        self,
        name: str,
        *,
        version: str = "",
        devices: str = "",
        health: str = "/health",
        unready: int = 1,
        port: str = "--port",
    ) -> Path:
        """A program that says `version` and `devices` when asked, takes `create`, or serves.

        It is not ready for the first `unready` health checks. `port` is the flag, or the
        environment variable with host and port, that says where to listen.
        """
        path = self.folder / name
        path.write_text(
            _SCRIPT.format(
                python=sys.executable,
                answers={"--version": version, "--list-devices": devices, "create": ""},
                record=str(self._record),
                health=health,
                unready=unready,
                port=port,
            )
        )
        os.chmod(path, 0o755)
        return path

    def calls(self, at_least: int = 0) -> list[Call]:
        """Every start of a program here, in order; waits until there were so many."""
        deadline = time.monotonic() + WAIT_S
        while self._count() < at_least and time.monotonic() < deadline:
            time.sleep(0.05)
        records = [json.loads(line) for line in self._record.read_text().splitlines()]
        return [Call(each["argv"], each["env"]) for each in records]

    def _count(self) -> int:
        return self._record.read_text().count("\n") if self._record.exists() else 0

    def call(self) -> Call:
        """The last start."""
        return self.calls()[-1]
