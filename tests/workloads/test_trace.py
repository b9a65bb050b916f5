import json
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_cells import MODEL, REMOTE, cell_of

from enginebench.errors import UsageError
from enginebench.types import RecordedWorkload, Request, WorkloadSpec
from enginebench_workloads.trace import TraceWorkload
from enginebench_workloads.trace_file import read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.6805900,96,109
2023-11-16 18:15:48.6805900,79,5
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,100,0,100,Conversation log
118.5,GPT-4,230,26,256,API log
"""
ROOMY = replace(MODEL, vocab_size=50_000, ordinary_token_end=50_000, context_length=None)


def write(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text)
    return path


def mooncake(*rows: tuple[int, int, int, list[int]]) -> str:
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def made(path: Path, model: Any = REMOTE, **options: Any) -> list[Request]:
    return list(TraceWorkload().requests(cell_of("trace", file=str(path), **options), model))


def due(requests: list[Request]) -> list[float]:
    return [request.scheduled_s for request in requests if request.scheduled_s is not None]


def test_azure_rows_come_in_order_of_time_with_fractions(tmp_path: Path) -> None:
    rows = read_trace(write(tmp_path, AZURE), None)
    assert [(r.line, r.input_tokens, r.output_tokens) for r in rows] == [
        (2, 374, 44),
        (4, 79, 5),
        (3, 96, 109),
    ]
    assert [b.at_s - a.at_s for a, b in pairwise(rows)] == pytest.approx([2, 2])
    zoned = AZURE.replace("2023-11-16 18:15:46.6805900", "2023-11-16 19:15:46.680590+01:00")
    assert read_trace(write(tmp_path, zoned), "azure")[0].at_s == pytest.approx(rows[0].at_s)


def test_burstgpt_leaves_out_what_had_failed(tmp_path: Path) -> None:
    rows = read_trace(write(tmp_path, BURSTGPT), None)
    assert [(r.at_s, r.input_tokens, r.output_tokens) for r in rows] == [
        (5.0, 472, 18),
        (118.5, 230, 26),
    ]


def test_equal_hash_ids_are_equal_tokens_and_only_those(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mooncake(
            (0, 1200, 5, [1, 2, 3]), (9, 1100, 6, [1, 2, 4]), (20, 600, 7, [1, 9]), (30, 5, 1, [3])
        ),
    )
    requests = made(path, ROOMY, rate_rps=1.0, warmup=2, requests=None, duration_s=99.0)
    warm, prompts = requests[:2], [request.prompt for request in requests[2:]]
    assert [len(prompt) for prompt in prompts] == [1200, 1100, 600, 5]
    assert [request.max_tokens for request in requests] == [5, 6, 5, 6, 7, 1]
    assert prompts[0][:1024] == prompts[1][:1024] and prompts[0][1024:1100] != prompts[1][1024:]
    assert prompts[2][:512] == prompts[0][:512] and prompts[2][512:] != prompts[0][512:600]
    assert prompts[3] == prompts[0][1024:1029]
    assert all(request.prompt[:512] != prompts[0][:512] for request in warm)
    again = made(path, ROOMY, rate_rps=1.0, warmup=2, requests=None, duration_s=99.0, seed=2)
    assert again[2].prompt[:512] != prompts[0][:512]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 100_000), min_size=2, max_size=30),
    st.floats(0.01, 100),
    st.floats(0.1, 50),
)
def test_times_keep_their_proportions_at_any_rate(
    times_ms: list[int], rate_rps: float, duration_s: float
) -> None:
    if len(set(times_ms)) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), mooncake(*((at, 3, 2, [i]) for i, at in enumerate(times_ms))))
        requests = made(
            path, rate_rps=rate_rps, requests=None, duration_s=duration_s, warmup=1, prompt="text"
        )
    begin, *_, end = sorted(times_ms)
    mean_rps = (len(times_ms) - 1) / ((end - begin) / 1e3)
    expected = [(at - begin) / 1e3 * mean_rps / rate_rps for at in sorted(times_ms)]
    sent = due(requests)
    assert sent == pytest.approx([at for at in expected if at < duration_s])
    assert [request.scheduled_s for request in requests[:1]] == [None]
    assert len(requests) == len(sent) + 1


def test_the_recorded_rate_replays_the_recorded_times(tmp_path: Path) -> None:
    path, workload = write(tmp_path, AZURE), TraceWorkload()
    assert isinstance(workload, RecordedWorkload)
    spec = WorkloadSpec("trace", {"file": str(path)})
    rate = workload.recorded_rate_rps(spec)
    assert rate == pytest.approx(0.5)
    assert due(made(path, rate_rps=rate)) == pytest.approx([0, 2, 4])
    assert due(made(path, rate_rps=2 * rate)) == pytest.approx([0, 1, 2])
    assert due(made(path, rate_rps=rate, requests=2)) == pytest.approx([0, 2])


def test_a_trace_can_be_cut(tmp_path: Path) -> None:
    path = write(tmp_path, mooncake(*((1000 * i, 3, i + 1, [i]) for i in range(10))))
    requests = made(path, rate_rps=1.0, start_s=2.0, length_s=3.0, warmup=0)
    assert [request.max_tokens for request in requests] == [3, 4, 5]
    assert due(requests) == pytest.approx([0, 1, 2])
    with pytest.raises(UsageError, match=r"no request from 9.5 s on for 1 s; it is 9 s long"):
        made(path, start_s=9.5, length_s=1.0)
    with pytest.raises(UsageError, match=r"no two requests at different times"):
        made(path, rate_rps=1.0, start_s=9.0)


def test_a_closed_loop_takes_the_rows_in_order_and_begins_again_with_other_tokens(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, mooncake((0, 700, 5, [1, 2]), (1, 520, 6, [1, 3])))
    requests = made(path, ROOMY, users=1, requests=4, warmup=0)
    assert due(requests) == []
    assert [len(request.prompt) for request in requests] == [700, 520, 700, 520]
    first, second, third, fourth = (request.prompt[:512] for request in requests)
    assert first == second and third == fourth and first != third


def test_requests_that_do_not_fit_are_an_error_or_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, AZURE.replace("374,44", "500,44"))
    with pytest.raises(UsageError, match=r"trace:2 \(or set trace.too_long=skip\): .*544 tokens"):
        made(path, MODEL)
    kept = made(path, MODEL, too_long="skip", rate_rps=0.5, warmup=0)
    assert [request.max_tokens for request in kept] == [5, 109]
    assert due(kept) == pytest.approx([2, 4])
    with pytest.raises(UsageError, match=r"need a context"):
        made(write(tmp_path, mooncake((0, 600, 1, [1, 2]))), MODEL, too_long="skip")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", r"trace:1: neither a JSON object \(mooncake\) nor the header TIMESTAMP"),
        (AZURE + "yesterday,1,2\n", r"trace:5: 'yesterday' is no date"),
        (AZURE + "2023-11-16 18:15:50,1\n", r"trace:5: 2 fields, the header has 3"),
        (AZURE + "2023-11-16 18:15:50,0,2\n", r"trace:5: a request has at least 1 token"),
        (AZURE + "2023-11-16 18:15:50,1.5,2\n", r"trace:5: '1.5' is no number of tokens"),
        (BURSTGPT + "x,G,1,1,2,API log\n", r"trace:5: 'x' is no number of seconds"),
        (BURSTGPT + "1,G,many,1,2,API log\n", r"trace:5: 'many' is no number of tokens"),
        (AZURE.splitlines()[0], r"has no request"),
        (mooncake((0, 513, 1, [1])), r"trace:1: 1 hash_ids for 513 tokens: .* each 512"),
        (mooncake((0, 5, 1, [-1])), r"trace:1: hash id -1"),
        (mooncake((0, 5, 1, [1])) + "\n{}\n", r"trace:3: not a request: .*timestamp"),
        (mooncake((0, 5, 0, [1])), r"trace:1: a request has at least 1"),
    ],
)
def test_a_bad_row_names_its_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(write(tmp_path, text))


def test_a_format_that_is_named_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trace:1: the header lacks Timestamp, Request tokens"):
        made(write(tmp_path, AZURE), format="burstgpt")
