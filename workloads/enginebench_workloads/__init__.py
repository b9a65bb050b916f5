"""Workloads (what is asked) and the load driver (how it is asked).

`prompts`, `arrivals` and `fixed` are pure and seeded; `driver` is a program of its own and the only
place that imports locust.
"""
