"""What the load driver itself costs: CPU per streamed event, at rising numbers of streams.

    python tests/benchmarks/client_cost.py --streams 1,64,256,512 --itl-ms 20

Each row is one run of the real driver (`enginebench_workloads.driver`, a process of its own)
against the pacer, a server that sends one event a write at an exact cadence, so that nearly every
event is a read of its own. "us/event" is all CPU of the driver from the start of its users to its
last record: sending, reading, parsing and recording included. Its inverse is what one core can
take. "late" is how much later an event was stamped than it was sent; on a busy machine that is the
machine, not the driver. Not collected by pytest: it measures, and asserts nothing.
"""

from __future__ import annotations

import argparse

import numpy as np

from enginebench_workloads.calibration import Outcome, Trial, play


def row(streams: int, outcome: Outcome) -> str:
    late_us = [float(np.percentile(outcome.late_s, percent)) * 1e6 for percent in (50, 99)]
    return (
        f"{streams:7d} {outcome.events_per_s:10,.0f} {outcome.cpu_s_per_event * 1e6:10.1f} "
        f"{1 / outcome.cpu_s_per_event:15,.0f} {late_us[0]:13,.0f} {late_us[1]:13,.0f} "
        f"{(outcome.done.loop_lag_s_p99 or 0) * 1e3:14.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", default="1,64,256,512", help="default: %(default)s")
    parser.add_argument("--itl-ms", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row, about")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--stamps", choices=("kernel", "read"), default="kernel")
    chosen = parser.parse_args()
    print("streams   events/s   us/event   events/s/core   late p50 us   late p99 us   lag p99 ms")
    for streams in map(int, chosen.streams.split(",")):
        trial = Trial(
            streams,
            itl_ms=chosen.itl_ms,
            tokens=chosen.tokens,
            seconds=chosen.seconds,
            stamp_in_kernel=chosen.stamps == "kernel",
        )
        print(row(streams, play(trial)), flush=True)


if __name__ == "__main__":
    main()
