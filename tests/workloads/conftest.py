"""A server on 127.0.0.1 for tests of the driver."""

import threading
from collections.abc import Iterator

import pytest
from driven import Server


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0))
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()
