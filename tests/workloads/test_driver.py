"""The driver against a small server whose timing is known."""

import itertools
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driven import FIRST_S, GAP_S, TOKENS, Server, finish, records, start

from enginebench.drive import DriveDone, DriveProgress
from enginebench.types import Budget, Load


def test_a_closed_loop_keeps_all_users_busy_and_stamps_the_truth(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(requests=8, warmup_requests=2)
    *progress, done = finish(start(tmp_path, server, Load(users=3), budget))
    made = records(tmp_path)
    measured = [record for record in made if record.phase == "measure"]
    assert [record.phase for record in made].count("warmup") == 2
    assert sorted(record.request_index for record in measured) == list(range(2, 10))
    assert {record.user for record in measured} == {0, 1, 2}
    for record in made:
        assert record.error is None and record.finish_reason == "length"
        assert record.chunk_tokens == (1,) * TOKENS
        assert record.token_count_source == "chunk_usage"
        assert (record.prompt_tokens, record.completion_tokens) == (3, TOKENS)
        assert record.chunk_ns[0] - record.sent_ns >= FIRST_S * 1e9
        assert record.end_ns - record.chunk_ns[0] >= GAP_S * 1e9 * (TOKENS - 1)
    assert isinstance(done, DriveDone) and done.measure_start_ns and done.measure_end_ns
    assert done.measure_start_ns < done.measure_end_ns <= max(r.end_ns for r in measured) + 5e7
    assert done.client_cpu_s > 0
    last = progress[-1]
    assert isinstance(last, DriveProgress) and (last.requests, last.errors) == (10, 0)


def test_a_duration_ends_the_cell_and_requests_under_way_are_finished(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(duration_s=0.4, warmup_requests=0)
    finish(start(tmp_path, server, Load(users=2), budget))
    made = records(tmp_path)
    assert 4 <= len(made) <= 10
    assert all(record.error is None for record in made)


def test_an_open_loop_sends_on_schedule_whatever_the_server_does(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(requests=10, warmup_requests=1)
    finish(start(tmp_path, server, Load(rate_rps=40.0), budget))
    made = sorted(
        (r for r in records(tmp_path) if r.phase == "measure"), key=lambda r: r.request_index
    )
    gaps = [(b.scheduled_ns - a.scheduled_ns) / 1e9 for a, b in itertools.pairwise(made)]
    assert gaps == pytest.approx([0.025] * 9, abs=1e-6)
    assert all(record.sent_ns >= record.scheduled_ns for record in made)


def test_extensions_that_a_server_refuses_are_left_out(tmp_path: Path, server: Server) -> None:
    server.mode = "strict"
    process = start(tmp_path, server, Load(users=1), Budget(requests=1, warmup_requests=0))
    _, err = process.communicate(timeout=60)
    assert b"ignore_eos" in err
    assert "ignore_eos" not in server.bodies[-1]
    assert records(tmp_path)[0].error is None


@pytest.mark.parametrize(
    ("mode", "words"),
    [("overloaded", "HTTP 503: queue is full"), ("dying", "HttpError"), ("hung", "within 0.5 s")],
)
def test_a_failed_request_is_a_record_with_what_came_before(
    tmp_path: Path, server: Server, mode: str, words: str
) -> None:
    server.mode = mode
    budget = Budget(requests=2, warmup_requests=0)
    finish(start(tmp_path, server, Load(users=2), budget, request_timeout_s=0.5))
    made = records(tmp_path)
    assert len(made) == 2
    for record in made:
        assert record.error is not None and words in record.error
        assert len(record.chunk_ns) == {"overloaded": 0, "dying": 2, "hung": 1}[mode]


def test_a_server_that_refuses_connections_is_an_error_in_every_record(
    tmp_path: Path, server: Server
) -> None:
    server.server_close()
    finish(start(tmp_path, server, Load(users=1), Budget(requests=2, warmup_requests=1)))
    made = records(tmp_path)
    assert len(made) == 3 and all("refused" in (record.error or "") for record in made)


def test_sigterm_stops_sending_and_keeps_what_there_is(tmp_path: Path, server: Server) -> None:
    process = start(tmp_path, server, Load(users=2), Budget(duration_s=60, warmup_requests=0))
    while server.answered < 4:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    events = finish(process)
    assert isinstance(events[-1], DriveDone)
    made = records(tmp_path)
    assert sum(record.error is None for record in made) >= 3
    assert {record.error for record in made} <= {None, "stopped by the harness"}


def test_an_open_loop_counts_from_its_first_answer_to_the_end_of_its_duration(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(duration_s=0.5, warmup_requests=0)
    *_, done = finish(start(tmp_path, server, Load(rate_rps=20.0), budget))
    made = sorted(records(tmp_path), key=lambda record: record.request_index)
    assert [record.request_index for record in made] == list(range(10))
    assert isinstance(done, DriveDone) and done.measure_start_ns and done.measure_end_ns
    begin_ns = made[0].scheduled_ns
    assert done.measure_start_ns >= min(record.end_ns for record in made)
    assert (done.measure_end_ns - begin_ns) / 1e9 == pytest.approx(0.5, abs=0.1)


def test_sigterm_in_an_open_loop_records_what_was_under_way(tmp_path: Path, server: Server) -> None:
    server.mode = "hung"
    process = start(tmp_path, server, Load(rate_rps=50.0), Budget(duration_s=60, warmup_requests=0))
    while len(server.bodies) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert isinstance(finish(process)[-1], DriveDone)
    made = records(tmp_path)
    assert len(made) >= 4
    assert {record.error for record in made} == {"stopped by the harness"}
    assert any(len(record.chunk_ns) == 1 for record in made)


def test_a_conversation_sends_what_was_really_answered(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=5, warmup_requests=1)
    finish(start(tmp_path, server, Load(users=1), budget, conversations=True))
    made = records(tmp_path)
    assert [record.request_index for record in made] == [0, 1, 2, 3, 4, 5]
    assert all(record.error is None and record.text == "a" * TOKENS for record in made)
    roles = [[message["role"] for message in body["messages"]] for body in server.bodies[1:]]
    turns = [
        ["user"],
        ["user", "assistant", "user"],
        ["user", *["assistant", "user"] * 2],
    ]
    assert roles == [["user"], *turns, *turns[:2]]
    last = server.bodies[4]["messages"]
    assert [message["content"] for message in last] == [
        "q1",
        "a" * TOKENS,
        "q2",
        "a" * TOKENS,
        "q3",
    ]
    by_index = {record.request_index: record for record in made}
    for index in (2, 3, 5):
        pause_ns = by_index[index].scheduled_ns - by_index[index - 1].end_ns
        assert pause_ns == pytest.approx(0.05e9, abs=1)
        assert by_index[index].sent_ns >= by_index[index].scheduled_ns


def test_conversations_in_an_open_loop_begin_on_schedule(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=6, warmup_requests=0)
    load = Load(rate_rps=20.0)
    *_, done = finish(start(tmp_path, server, load, budget, conversations=True))
    made = {record.request_index: record for record in records(tmp_path)}
    assert len(made) == 6 and all(record.error is None for record in made.values())
    gap_ns = made[4].scheduled_ns - made[1].scheduled_ns if 4 in made and 1 in made else None
    assert gap_ns is None or gap_ns == pytest.approx(3 * 0.05e9, abs=1e3)
    assert isinstance(done, DriveDone) and done.measure_start_ns is not None


def test_warming_up_ends_when_the_pace_is_steady(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=2, warmup_requests=20, warmup_until_steady=True)
    process = start(tmp_path, server, Load(users=1), budget)
    _, err = process.communicate(timeout=60)
    phases = [record.phase for record in records(tmp_path)]
    assert phases.count("measure") == 2 and 3 <= phases.count("warmup") <= 20
    assert f"after {phases.count('warmup')} answers" in err.decode()


def test_users_join_when_they_are_to(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=6, warmup_requests=0)
    *_, done = finish(start(tmp_path, server, Load(users=2), budget, joins_s=(0.0, 0.4)))
    made = {record.request_index: record for record in records(tmp_path)}
    late = made[1].scheduled_ns - made[0].scheduled_ns
    assert late == pytest.approx(0.4e9, abs=0.1e9) and made[1].sent_ns >= made[1].scheduled_ns
    assert isinstance(done, DriveDone) and done.measure_start_ns is not None
    assert done.measure_start_ns >= made[1].sent_ns  # all users busy


@pytest.mark.parametrize("load", [Load(users=5), Load(rate_rps=40.0)])
def test_several_workers_are_one_driver(tmp_path: Path, server: Server, load: Load) -> None:
    budget = Budget(requests=20, warmup_requests=3)
    *progress, done = finish(start(tmp_path, server, load, budget, load_workers=2))
    made = records(tmp_path)
    assert all(record.error is None for record in made)
    measured = sorted(record.request_index for record in made if record.phase == "measure")
    assert measured == list(range(3, 23)) and len(made) == 23
    if load.users is not None:
        assert {record.user for record in made if record.phase == "measure"} == set(range(5))
    assert all(record.chunk_ns[0] > record.sent_ns >= record.scheduled_ns for record in made)
    assert isinstance(done, DriveDone) and done.workers == 2 and done.measure_start_ns is not None
    last = progress[-1]
    assert isinstance(last, DriveProgress)


def test_a_worker_of_another_machine_joins(tmp_path: Path, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    bench = [sys.executable, "-c", "from enginebench.cli.main import main; main()"]
    worker = subprocess.Popen([*bench, "worker", "--join", where, "--once"])
    budget = Budget(requests=8, warmup_requests=0)
    remote = {"load_workers": 1, "remote_workers": 1, "listen": where}
    *_, done = finish(start(tmp_path, server, Load(users=2), budget, **remote))
    assert worker.wait(30) == 0
    made = records(tmp_path)
    assert sorted(record.request_index for record in made) == list(range(8))
    assert isinstance(done, DriveDone) and done.workers == 2
