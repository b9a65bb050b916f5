"""Workloads (what is asked) and the load driver (how it is asked).

Workloads are pure and seeded: `fixed`, `lengths`, `shared_prefix`, `dataset`, `trace`,
`conversations`, and what they share (`prompts`, `demand`, `arrivals`). `driver` is a program of its
own; it, `fleet` and `load_worker` alone import locust. `link`, `exchange` and `recorder` are its
timed path, `pacer` and `calibration` hold it against a known truth.
"""
