"""What a server tells of itself: its Prometheus metrics, read about once a second, as common names.

An engine's plugin says where each figure is found (`server_metrics`, see `TellsMetrics` in
`enginebench.types`):

    {"server_waiting": ("vllm:num_requests_waiting",),
     "server_kv_used_share": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")}

Of several names the first that the server has counts (versions differ), `a/b` is the ratio of two,
and samples of one name are summed over their labels. A figure that a server does not have, or a
server that does not answer, leaves nothing.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from urllib.parse import urlsplit

from enginebench.types import Endpoint

__all__ = ["COMMON_NAMES", "Scraper", "figures_in"]

COMMON_NAMES = (
    "server_running",
    "server_waiting",
    "server_kv_used_share",
    "server_kv_filled_share",
    "server_prefix_queried_tokens",
    "server_prefix_hit_tokens",
    "server_preemptions",
)
INTERVAL_S = 1.0
TIMEOUT_S = 2.0
_PATH = "/metrics"


class Scraper:
    """Reads one server's metrics in a thread of its own, from entry to exit."""

    def __init__(
        self, endpoint: Endpoint, names: Mapping[str, Sequence[str]], interval_s: float = INTERVAL_S
    ) -> None:
        self._endpoint, self._names, self._interval_s = endpoint, names, interval_s
        self._latest: Mapping[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrape", daemon=True)

    def take(self) -> Mapping[str, float]:
        """What was read since the last call; empty if nothing was."""
        with self._lock:
            latest, self._latest = self._latest, {}
        return latest

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            found = figures_in(_read(self._endpoint), self._names)
            with self._lock:
                self._latest = found


def figures_in(text: str, names: Mapping[str, Sequence[str]]) -> Mapping[str, float]:
    """The figures of `names` in Prometheus's text format; what is no such text has none."""
    from prometheus_client.parser import text_string_to_metric_families

    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    except (ValueError, KeyError, IndexError):  # the parser's ways of saying no
        return {}
    found = {name: _first(sources, sums) for name, sources in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _first(sources: Sequence[str], sums: Mapping[str, float]) -> float | None:
    for source in sources:
        over, _, under = source.partition("/")
        if over in sums and (not under or sums.get(under)):
            return sums[over] / sums[under] if under else sums[over]
    return None


def _read(endpoint: Endpoint) -> str:
    """The text that the server gives; empty if it gives none."""
    url = urlsplit(endpoint.base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    try:
        connection.request("GET", url.path.rstrip("/") + _PATH, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return text if answer.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
