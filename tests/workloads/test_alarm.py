import os
import time

from enginebench_workloads.alarm import Alarm
from enginebench_workloads.lag import LagProbe


def test_an_alarm_never_rings_early_and_mostly_within_a_millisecond() -> None:
    alarm, late_ns = Alarm(), []
    for _ in range(40):
        due_ns = time.monotonic_ns() + 3_300_000
        alarm.sleep_until(due_ns)
        late_ns.append(time.monotonic_ns() - due_ns)
    alarm.close()
    assert min(late_ns) >= 0
    assert sorted(late_ns)[4] < 1_000_000  # the quick ones: this machine may be busy


def test_what_is_past_is_not_waited_for() -> None:
    alarm, start = Alarm(), time.monotonic_ns()
    alarm.sleep_until(start - 1)
    assert time.monotonic_ns() - start < 50_000_000
    alarm.close()


def test_alarms_give_their_descriptors_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Alarm().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_blocked_loop_shows_as_lag() -> None:
    import gevent

    appointments: list[int] = []
    probe = LagProbe(lambda: appointments.append(1))
    probe.start()
    gevent.sleep(0.03)
    time.sleep(0.08)  # blocks the loop, as slow parsing would
    gevent.sleep(0.02)
    assert probe.p99_s is None
    assert 0.06 < probe.max_s < 0.5
    assert 3 <= len(appointments) < 12  # those that were missed are one
    probe.forget()
    assert probe.max_s == 0
    probe.stop()
