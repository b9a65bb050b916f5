"""What stands under deploy/: commands that the servers understand, metrics that they have."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
from openai_fakes import ScriptedEngine, http_get, http_post, serving
from prometheus_client.parser import text_string_to_metric_families

from enginebench_openai.launch import parse_arguments
from enginebench_openai.limits import PoolSettings
from enginebench_openai.protocol import EngineStats
from enginebench_paged.options import OPTIONS as PAGED
from enginebench_quant.options import OPTIONS as QUANT

DEPLOY = Path(__file__).parents[3] / "deploy"
OPTIONS = {"enginebench_paged.serve": PAGED, "enginebench_quant.serve": QUANT}


def parsed(argv: list[str]):
    at = argv.index("-m")
    module, arguments = argv[at + 1], argv[at + 2 :]
    return parse_arguments(arguments, program=module, description="", options=OPTIONS[module])


def instruction(text: str, name: str) -> list[str]:
    (found,) = re.findall(rf"^{name} (\[.*\])$", text, re.MULTILINE)
    return json.loads(found)


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_images_start_servers_that_understand_their_arguments(name):
    text = (DEPLOY / name).read_text()
    found = parsed(instruction(text, "ENTRYPOINT") + instruction(text, "CMD"))
    assert (found.host, found.port) == ("0.0.0.0", 8000)
    ((_, model),) = found.models
    assert f"models pull {model}\n" in text  # servers fetch nothing of the registry themselves
    assert "http://127.0.0.1:8000/health" in text
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (DEPLOY.parent / path).exists(), path


def test_the_unit_starts_a_server_and_gives_it_time_to_drain():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "enginebench.service")
    service = unit["Service"]
    found = parsed(shlex.split(service["ExecStart"]))
    assert service["ExecStartPre"].endswith(f"/bench models pull {found.models[0][1]}")
    assert found.host == "127.0.0.1" and found.api_key_file.name == "keys"
    assert int(service["TimeoutStopSec"]) > found.drain_s


class TellingEngine(ScriptedEngine):
    """Tells everything that an engine can tell."""

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 1, 1, 8, 3, 4, 4, 5, 2, 0)


def test_the_dashboard_names_only_metrics_that_exist():
    text = (DEPLOY / "grafana.json").read_text()
    named = set(re.findall(r"enginebench:(\w+)", text))
    assert len(named) > 15
    with serving(TellingEngine(), pool=PoolSettings(restarts=1)) as server:
        body = {"model": "fake", "prompt": "a", "max_tokens": 1}
        http_post(f"{server.url}/v1/completions", json=body)
        scraped = http_get(f"{server.url}/metrics").text
    families = list(text_string_to_metric_families(scraped))
    samples = {one.name for family in families for one in family.samples}
    # counters with labels have no sample before the first event, but they are announced
    samples |= {f"{family.name}_total" for family in families if family.type == "counter"}
    assert {f"enginebench:{name}" for name in named} <= samples
