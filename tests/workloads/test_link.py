"""Real sockets, plain and encrypted. What needs the event loop runs in a process of its own."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLIENT = """
import sys, time
import gevent
from enginebench_workloads.link import connect
port, tls, size = int(sys.argv[1]), sys.argv[2] == "tls", int(sys.argv[3])
ticks = []
def tick():
    while True:
        gevent.sleep(0.01)
        ticks.append(1)
ticker = gevent.spawn(tick)
link = connect("localhost", port, tls=tls)
sent_ns = time.monotonic_ns()
link.sendall(b"x" * size)
got = []
def take(stamp, data):
    assert stamp >= sent_ns
    got.append(data)
    return sum(map(len, got)) >= size or not data
link.receive(take)
assert b"".join(got) == b"y" * size, len(b"".join(got))
def refuse(stamp, data):
    raise RuntimeError(f"took {data!r}")
link.sendall(b"z")
try:
    link.receive(refuse)
except RuntimeError as error:
    print(error, len(ticks) > 3)
link.close()
"""


def answer(listener: socket.socket, context: ssl.SSLContext | None, size: int) -> None:
    connection, _ = listener.accept()
    connection = context.wrap_socket(connection, server_side=True) if context else connection
    with connection:
        threading.Event().wait(0.1)  # the client's buffers fill; it must wait without blocking
        received = 0
        while received < size:
            received += len(connection.recv(1 << 16))
        connection.sendall(b"y" * size)
        connection.recv(1)
        connection.sendall(b"w")


@contextmanager
def server(context: ssl.SSLContext | None, size: int) -> Iterator[int]:
    with socket.create_server(("localhost", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener, context, size))
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def run_client(port: int, kind: str, size: int, **env: str) -> str:
    argv = [sys.executable, "-c", CLIENT, str(port), kind, str(size)]
    ran = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, env={**os.environ, **env}
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("size", [1, 5_000_000])
def test_a_plain_link_waits_without_blocking_the_loop(size: int) -> None:
    with server(None, size) as port:
        assert run_client(port, "plain", size) == "took b'w' True"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_an_encrypted_link_loses_nothing(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    name = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *files, *name], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with server(context, 3_000_000) as port:
        said = run_client(port, "tls", 3_000_000, SSL_CERT_FILE=str(certificate))
        assert said == "took b'w' True"


STAMPS = """
import socket, sys, time
from enginebench_workloads.link import connect
with socket.create_server(("localhost", 0)) as listener:
    link = connect("localhost", listener.getsockname()[1], tls=False, in_kernel=sys.argv[1] == "1")
    server, _ = listener.accept()
    before_ns = time.monotonic_ns()
    server.sendall(b"x")
    sent_ns = time.monotonic_ns()
    time.sleep(0.2)  # nobody reads
    def take(stamp, data):
        print(link.in_kernel, stamp >= before_ns, stamp - sent_ns < 1e8)
        return True
    link.receive(take)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's stamps are Linux's")
@pytest.mark.parametrize(
    ("in_kernel", "said"), [("1", "True True True"), ("0", "False True False")]
)
def test_the_kernel_stamps_what_is_read_late(in_kernel: str, said: str) -> None:
    argv = [sys.executable, "-c", STAMPS, in_kernel]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert ran.stdout.strip() == said, ran.stderr


def test_nobody_listening_is_an_os_error() -> None:
    code = (
        "from enginebench_workloads.link import connect\n"
        "try:\n    connect('127.0.0.1', 1, tls=False)\n"
        "except OSError as error:\n    print(type(error).__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.stdout.strip() == "ConnectionRefusedError"
