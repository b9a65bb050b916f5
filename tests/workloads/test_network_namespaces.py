"""A load worker in a network namespace of its own, whose clock is another one too: as on another
machine. Needs root.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from driven import FIRST_S, Server, finish, records, start

from enginebench.drive import DriveDone
from enginebench.types import Budget, Load

AHEAD_S = 5000
HERE, THERE = "10.213.77.1", "10.213.77.2"
NAME = f"eb{os.getpid()}"


def run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def cannot() -> str | None:
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs ip and unshare"
    if not run("unshare", "--net", "--time", "--fork", "--monotonic", "1", "true"):
        return "needs namespaces of networks and of clocks"
    return None


pytestmark = pytest.mark.skipif(cannot() is not None, reason=str(cannot()))


@pytest.fixture
def namespace() -> Iterator[str]:
    inside, outside = f"{NAME}i", f"{NAME}o"
    steps = (
        f"ip netns add {NAME}",
        f"ip link add {outside} type veth peer name {inside}",
        f"ip link set {inside} netns {NAME}",
        f"ip addr add {HERE}/30 dev {outside}",
        f"ip link set {outside} up",
        f"ip -n {NAME} addr add {THERE}/30 dev {inside}",
        f"ip -n {NAME} link set {inside} up",
    )
    try:
        for step in steps:
            if not run(*step.split()):
                pytest.skip(f"this system does not let us: {step}")
        yield NAME
    finally:
        run("ip", "link", "del", outside)
        run("ip", "netns", "del", NAME)


def join(namespace: str, where: str) -> subprocess.Popen[bytes]:
    bench = [sys.executable, "-c", "from enginebench.cli.main import main; main()"]
    elsewhere = ["ip", "netns", "exec", namespace]
    later = ["unshare", "--time", "--fork", "--monotonic", str(AHEAD_S)]
    return subprocess.Popen([*elsewhere, *later, *bench, "worker", "--join", where, "--once"])


def test_a_worker_in_another_network_with_another_clock(tmp_path: Path, namespace: str) -> None:
    """One worker here, one there; both load one server, and their rows are by one clock."""
    server = Server((HERE, 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    where = f"{HERE}:{server.server_address[1] + 1}"
    worker = join(namespace, where)
    try:
        budget = Budget(requests=12, warmup_requests=0)
        workers = {"load_workers": 1, "remote_workers": 1, "listen": where}
        *_, done = finish(start(tmp_path, server, Load(users=4), budget, **workers))
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        server.shutdown()
        server.server_close()
        thread.join()
    made = records(tmp_path)
    assert sorted(record.request_index for record in made) == list(range(12))
    assert {record.user for record in made} == set(range(4))
    assert isinstance(done, DriveDone) and done.workers == 2
    assert done.measure_start_ns is not None
    for record in made:
        assert record.error is None
        assert record.chunk_ns[0] - record.sent_ns > FIRST_S * 0.9e9
        assert abs(record.sent_ns - done.measure_start_ns) < AHEAD_S * 0.1e9
