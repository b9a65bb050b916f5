"""Options from the command line and from plan.toml: the same texts, the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import UnknownNameError, UsageError
from enginebench.options import OPTION_KEYS, RateMultiple, Sought, merge_options, parse_options
from enginebench.plan_file import read_plan_file
from enginebench.run_settings import RunSettings
from enginebench.settings import Setting
from enginebench.slo import Slo

PLAN = """
engines = ["paged", "quant"]
model = "smollm2-135m,synthetic:tiny"
hardware = ["cpu:1", "cpu:2"]
concurrency = [1, 4]
rate = [0.5, 2]
arrival = "gamma"
workload = "fixed"
requests = 20
duration = 2.5
input_tokens = [128, 512]
output_tokens = 32
warmup = 0
repeats = 3
seed = 7
name = "blocks"
reuse_servers = true
unchecked = false
reference = "paged"
switch_to = "smollm2-135m"
price = 2.5
slo = "ttft=500ms,tpot=50ms"
slo_share = "95%"
precision = "2%"
budget = "5m"
ramp = 5
load_workers = 4
remote_workers = 2
load_listen = "0.0.0.0:5557"
route = "chat"
stall_timeout = 30
url = "http://127.0.0.1:8000"

[set.paged]
block_size = [16, 32]
prefix_cache = false
path = "a,b"
"""


def test_defaults() -> None:
    options = parse_options({})
    assert options.engines == ("all",)
    assert options.concurrency == (1, 16)
    assert options.workload == "fixed"
    assert (options.requests, options.duration_s) == (None, 10.0)
    assert (options.repeats, options.seed, options.warmup_requests) == (1, 0, 1)


def test_file_and_command_line_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    typed = {
        "engines": ["paged,quant"],
        "model": ["smollm2-135m", "synthetic:tiny"],
        "hardware": ["cpu:1,cpu:2"],
        "concurrency": ["1,4"],
        "rate": ["0.5,2"],
        "arrival": ["gamma"],
        "workload": ["fixed"],
        "requests": ["20"],
        "duration": ["2.5"],
        "input_tokens": ["128,512"],
        "output_tokens": ["32"],
        "warmup": ["0"],
        "repeats": ["3"],
        "seed": ["7"],
        "name": ["blocks"],
        "reuse_servers": ["true"],
        "unchecked": ["false"],
        "reference": ["paged"],
        "switch_to": ["smollm2-135m"],
        "price": ["2.5"],
        "slo": ["ttft=500ms,tpot=50ms"],
        "slo_share": ["95%"],
        "precision": ["2%"],
        "budget": ["5m"],
        "ramp": ["5"],
        "load_workers": ["4"],
        "remote_workers": ["2"],
        "load_listen": ["0.0.0.0:5557"],
        "route": ["chat"],
        "stall_timeout": ["30"],
        "url": ["http://127.0.0.1:8000"],
        "set": ["paged.block_size=16,32", "paged.prefix_cache=false", r"paged.path=a\,b"],
    }
    assert set(typed) == set(OPTION_KEYS)
    assert parse_options(read_plan_file(tmp_path / "plan.toml")) == parse_options(typed)


def test_command_line_wins_over_the_file_option_by_option() -> None:
    file = {"repeats": ["3"], "seed": ["7"], "set": ["a.x=1", "a.y=2"]}
    merged = parse_options(merge_options(file, {"seed": ["8"], "set": ["a.x=5"]}))
    assert (merged.repeats, merged.seed) == (3, 8)
    assert merged.settings == (Setting("a", "x", ("5",)), Setting("a", "y", ("2",)))


def test_requests_without_duration_has_no_time_limit() -> None:
    options = parse_options({"requests": ["5"]})
    assert (options.requests, options.duration_s) == (5, None)


def test_rates_are_loads_of_their_own_and_leave_no_users_unasked_for() -> None:
    options = parse_options({"rate": ["2,0.5"]})
    assert (options.concurrency, options.rates) == ((), (2.0, 0.5))
    both = parse_options({"rate": ["2"], "concurrency": ["4"], "arrival": ["constant"]})
    assert (both.concurrency, both.rates) == ((4,), (2.0,))
    assert both.settings == (Setting("fixed", "arrival", ("constant",)),)


def test_a_rate_may_be_a_multiple_of_the_recorded_one() -> None:
    options = parse_options({"rate": ["1x,0.5x,4"]})
    assert options.rates == (RateMultiple(1.0), RateMultiple(0.5), 4.0)
    assert [str(rate) for rate in options.rates[:2]] == ["1x", "0.5x"]


def test_how_a_run_is_executed() -> None:
    made = parse_options({"stall_timeout": ["30s"], "slo": ["ttft=500ms", "e2e=2s"]}).run_settings
    assert (made.stall_timeout_s, made.slo) == (30.0, Slo(ttft_s=0.5, e2e_s=2.0))
    assert parse_options({}).run_settings == RunSettings()


def test_warming_up_may_be_left_to_the_driver() -> None:
    auto = parse_options({"warmup": ["auto"]})
    assert (auto.warmup_requests, auto.warmup_until_steady) == (32, True)
    assert not parse_options({"warmup": ["3"]}).warmup_until_steady
    with pytest.raises(UsageError, match="from 0 up, or auto"):
        parse_options({"warmup": ["some"]})


def test_loads_may_be_sought() -> None:
    sought = parse_options({"rate": ["2,saturate"], "concurrency": ["4"]})
    assert (sought.concurrency, sought.rates) == ((4,), (2.0, Sought("saturate", 1.0)))
    met = parse_options({"slo": ["ttft=1s"], "concurrency": ["slo:8"], "slo_share": ["99%"]})
    assert (met.concurrency, met.rates, met.slo_share) == ((Sought("slo", 8.0),), (), 0.99)
    alone = parse_options({"slo": ["ttft=1s"], "budget": ["90s"]})
    assert (alone.concurrency, alone.rates) == ((), (Sought("slo", 1.0),))
    assert (alone.budget_s, alone.slo_share) == (90.0, 0.9)


def test_precision_begins_with_enough_repeats() -> None:
    assert parse_options({"precision": ["2%"]}).repeats == 3
    assert parse_options({"precision": ["2%"], "repeats": ["5"]}).repeats == 5


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"rate": ["slo"]}, "add --slo"),
        ({"rate": ["saturate:0"]}, "with which load to begin"),
        ({"rate": ["saturate:x"]}, "with which load to begin"),
        ({"concurrency": ["saturate"]}, "never saturates"),
        ({"concurrency": ["slo:1.5"], "slo": ["ttft=1s"]}, "how many users"),
        ({"precision": ["2"]}, "as in 2%"),
        ({"precision": ["0%"]}, "between 0% and 100%"),
        ({"budget": ["10x"]}, "as in 90s, 10m or 1h"),
        ({"budget": ["0m"]}, "above 0"),
        ({"remote_workers": ["2"]}, "need both --remote-workers"),
        ({"load_listen": ["host:1"]}, "need both --remote-workers"),
        ({"load_listen": ["5557"], "remote_workers": ["2"]}, "HOST:PORT"),
        ({"load_workers": ["0"]}, "from 1 up"),
    ],
)
def test_what_cannot_be_sought(raw: dict[str, list[str]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_options(raw)


def test_a_url_alone_measures_that_server() -> None:
    options = parse_options({"url": ["http://host"]})
    assert options.engines == ("url",)
    assert options.settings == (Setting("url", "url", ("http://host",)),)
    assert parse_options({"url": ["http://host"], "engines": ["all"]}).engines == ("all",)


def test_lengths_are_options_of_the_workload() -> None:
    options = parse_options({"input_tokens": ["8,16"], "workload": ["chat"]})
    assert options.settings == (Setting("chat", "input_tokens", ("8", "16")),)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"concurrency": ["0"]}, r"--concurrency '0': must be a whole number from 1 up"),
        ({"concurrency": ["many"]}, r"--concurrency 'many': must be a whole number"),
        ({"concurrency": ["1,,2"]}, r"--concurrency '': must be"),
        ({"concurrency": ["1,16,1"]}, r"names 1 twice"),
        ({"concurrency": ["-1"]}, r"--concurrency '-1'"),
        ({"rate": ["0"]}, r"--rate '0': must be a number of requests per second above 0"),
        ({"rate": ["inf"]}, r"--rate 'inf'"),
        ({"rate": ["x"]}, r"--rate 'x': .*as in 1x or 2x"),
        ({"rate": ["2xx"]}, r"--rate '2xx'"),
        ({"rate": ["2,many"]}, r"--rate 'many'"),
        ({"rate": ["2,2.0"]}, r"names 2.0 twice"),
        ({"arrival": ["poisson"]}, r"say how often with --rate"),
        ({"set": ["fixed.arrival=gamma"], "concurrency": ["1"]}, r"an arrival \(gamma\)"),
        ({"engines": ["all,all"]}, r"names all twice"),
        ({"engines": [""]}, r"--engines '': a name is missing"),
        ({"requests": ["1.5"]}, r"--requests '1.5'"),
        ({"duration": ["0"]}, r"--duration '0': must be a number of seconds above 0"),
        ({"duration": ["nan"]}, r"--duration 'nan'"),
        ({"duration": ["inf"]}, r"--duration 'inf'"),
        ({"repeats": ["0"]}, r"--repeats '0'"),
        ({"seed": ["x"]}, r"--seed 'x'"),
        ({"name": ["../up"]}, r"--name '../up': must be letters"),
        ({"workload": ["a", "b"]}, r"takes one value, not 2: a, b"),
        ({"set": ["paged.x"]}, r"write ENGINE.OPTION=VALUE"),
        ({"set": ["paged.x=1", "paged.x=2"]}, r"paged.x is set twice, to 1 and 2"),
        ({"input_tokens": ["8"], "set": ["fixed.input_tokens=9"]}, r"set twice"),
        ({"price": ["-1"]}, r"--price '-1': must be what the machine costs an hour"),
        ({"price": ["cheap"]}, r"--price 'cheap': must be what the machine costs an hour"),
        ({"unchecked": ["perhaps"]}, r"--unchecked 'perhaps': must be true or false"),
        ({"reuse_servers": ["perhaps"]}, r"--reuse-servers 'perhaps': must be true or false"),
    ],
)
def test_bad_values_name_the_option(raw: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_options(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurency = 1", "did you mean concurrency"),
        ("concurrency = ", "not valid TOML"),
        ("[concurrency]\nx = 1", r"concurrency = \{'x': 1\}: must be a text, a number"),
        ("seed = 2026-01-01", "must be a text, a number"),
        ("set = 5", "write ENGINE.OPTION=VALUE"),
    ],
)
def test_a_bad_plan_file_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse_options(read_plan_file(path))


def test_unreadable_plan_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the plan .*No such file"):
        read_plan_file(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_plan_file(tmp_path / "bytes.toml")


def test_quoted_keys_in_the_set_table(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('[set]\n"paged.block_size" = [16, 32]\n')
    options = parse_options(read_plan_file(tmp_path / "plan.toml"))
    assert options.settings == (Setting("paged", "block_size", ("16", "32")),)


def test_unknown_key_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean engines"):
        parse_options({"engine": ["paged"]})


@given(st.lists(st.integers(1, 10**9), min_size=1, unique=True))
def test_number_lists_are_read_as_written(numbers: list[int]) -> None:
    assert parse_options({"concurrency": [",".join(map(str, numbers))]}).concurrency == tuple(
        numbers
    )


@given(st.sampled_from(OPTION_KEYS), st.text(max_size=30))
def test_any_text_is_read_or_refused_as_a_user_error(key: str, text: str) -> None:
    try:
        parse_options({key: [text]})
    except UsageError as error:
        assert str(error)


def test_the_documented_plan_is_read_and_shows_every_key(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    example = document.split("```toml\n")[1].split("```")[0]
    path = tmp_path / "plan.toml"
    path.write_text(example)
    raw = read_plan_file(path)
    assert set(raw) | {"url"} == set(OPTION_KEYS)
    assert parse_options(raw).settings[0] == Setting("paged", "block_size", ("16", "32"))
