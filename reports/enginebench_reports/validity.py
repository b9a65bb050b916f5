"""Whether a cell's figures may be believed, and if not, why not.

A flag is `invalid` (do not quote these figures) or `caution` (read the reason first). What counts
as too much stands in the constants below; reports print the reasons, never a name alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from enginebench.results import CellResult
from enginebench.types import Flag
from enginebench_reports.agreement import reference_of
from enginebench_reports.client_flags import client_flags
from enginebench_reports.measured import phase
from enginebench_reports.percentiles import printed_from
from enginebench_reports.roofline import ceilings_of
from enginebench_reports.shared_prefixes import reusable_share

__all__ = ["Flag", "flags"]

TOLERATED_ERROR_RATE = 0.01
SHORT_WINDOW_SHARE = 1 / 3
BROKEN_AGREEMENT = 0.5
GOOD_AGREEMENT = 0.8
UNANSWERED_SHARE = 0.4
UNCERTAIN_CEILING = 0.1
UNEXPECTED_HIT_SHARE = 0.05
SLOWED_SHARE = 0.1

Figures = Mapping[str, float | None]


def flags(cell: CellResult, figures: Figures) -> Sequence[Flag]:
    """The flags of a cell whose metrics are `figures`; invalid ones first."""
    if cell.status.state == "pending":
        return [Flag("invalid", "pending", "not run yet: `bench run --resume` goes on with it")]
    found = [
        *_failure(cell),
        *_errors(cell, figures),
        *_lengths(cell),
        *_sample_size(figures),
        *_steadiness(cell, figures),
        *client_flags(cell, figures),
        *_token_counts(cell),
        *_answers_differ(cell, figures),
        *_prefix_hits(cell, figures),
        *_slowed(figures),
        *_answers_failed(cell),
        *_above_ceiling(cell, figures),
    ]
    return sorted(found, key=lambda flag: flag.level == "caution")


def _failure(cell: CellResult) -> Iterator[Flag]:
    if cell.status.state == "failed":
        yield Flag("invalid", "failed", cell.status.error or "failed without saying why")


def _errors(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    ok, failed = figures.get("requests_ok") or 0, figures.get("requests_failed") or 0
    if ok == 0 and failed == 0:
        if cell.status.state == "ok":
            yield Flag("invalid", "empty", "no measured request was made")
        return
    if failed:
        level: Literal["invalid", "caution"] = (
            "invalid" if failed / (ok + failed) > TOLERATED_ERROR_RATE else "caution"
        )
        total = int(ok + failed)
        yield Flag(
            level, "errors", f"{int(failed)} of {total} requests failed: {_errors_seen(cell)}"
        )


def _errors_seen(cell: CellResult) -> str:
    """The commonest error, shortened, and how many other kinds there were."""
    column = phase(cell.records, "measure")["error"].drop_null().to_pylist()
    kinds = Counter(" ".join(str(error).split())[:160] for error in column)
    (commonest, _), *others = kinds.most_common()
    return f"{commonest}{f' (and {len(others)} other kinds)' if others else ''}"


def _lengths(cell: CellResult) -> Iterator[Flag]:
    """Where the plan fixes an answer's length (`ignore_eos`), it must be just that long."""
    import pyarrow.compute as pc

    columns = ("phase", "error", "request_index", "completion_tokens", "finish_reason")
    measured = phase(cell.records.select(columns), "measure")
    ok = measured.filter(pc.is_null(measured["error"]))
    if ok.num_rows == 0 or cell.requests.num_rows == 0:
        return
    fixed = cell.requests.filter(pc.match_substring(cell.requests["body"], '"ignore_eos":true'))
    planned = fixed.select(["index", "max_tokens"]).rename_columns(["request_index", "max_tokens"])
    both = ok.select(["request_index", "completion_tokens", "finish_reason"]).join(
        planned, "request_index", join_type="inner"
    )
    wrong = pc.fill_null(pc.not_equal(both["completion_tokens"], both["max_tokens"]), False)
    if count := pc.sum(wrong).as_py():
        got, due = (both.filter(wrong)[name][0] for name in ("completion_tokens", "max_tokens"))
        yield Flag(
            "invalid",
            "lengths_differ",
            f"{count} of {ok.num_rows} answers are not as long as planned (one has {got} tokens "
            f"instead of {due}): the engine stopped early or ignored ignore_eos",
        )
    odd = set(both["finish_reason"].drop_null().unique().to_pylist()) - {"length"}
    if odd and not count:
        yield Flag(
            "invalid",
            "finish_reasons_differ",
            f"answers ended by {', '.join(sorted(odd))} where the plan says by length",
        )


def _sample_size(figures: Figures) -> Iterator[Flag]:
    ok, enough = int(figures.get("requests_ok") or 0), printed_from(90)
    if 0 < ok < enough:
        yield Flag(
            "caution",
            "few_requests",
            f"only {ok} measured request{'s' * (ok != 1)}: a p90 needs {enough}, a p99 "
            f"{printed_from(99)}",
        )


def _steadiness(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    window_s = figures.get("window_s")
    if window_s is None or not figures.get("requests_ok"):
        return
    open_loop = cell.cell.load.users is None
    if not figures.get("window_is_steady"):
        yield Flag(
            "caution",
            "not_steady",
            (
                "no answer had ended before the last request was sent"
                if open_loop
                else "all users were never busy at once"
            )
            + ": rates are over the whole span of the requests",
        )
        return
    span_s = _span_s(cell)
    if window_s < span_s * SHORT_WINDOW_SHARE:
        yield Flag(
            "caution",
            "short_window",
            f"the steady state lasted {window_s:.1f} s of {span_s:.1f} s: give it more requests",
        )


def _answers_differ(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    """Random weights make near-ties of all tokens: there, only a caution."""
    parts = {
        "first": figures.get("answer_first_token_share"),
        "decoded": figures.get("answer_decode_share"),
    }
    known = {part: share for part, share in parts.items() if share is not None}
    reference = reference_of(cell) if known else None
    if reference is None:
        return
    part, share = min(known.items(), key=lambda item: item[1])
    said = (
        f"only {share:.0%} of the {part} tokens of its greedy answers are those of "
        f"{reference.label} on equal context"
    )
    if share < BROKEN_AGREEMENT and cell.model.format != "synthetic":
        yield Flag("invalid", "answers_differ", f"{said}: it does not compute the same model")
    elif share < GOOD_AGREEMENT:
        yield Flag("caution", "answers_deviate", f"{said}: look at the precision of both")


def _above_ceiling(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    """Nothing is faster than its machine, up to what the machine's ceilings are uncertain by."""
    ceilings = ceilings_of(cell)
    if ceilings is None:
        return
    bound = 1 + min(ceilings.spread, UNCERTAIN_CEILING)
    for name, what in (("tpot_floor_share", "TPOT"), ("prefill_floor_share", "TTFT")):
        share = figures.get(name) or 0.0
        if share > bound:
            yield Flag(
                "invalid",
                "above_ceiling",
                f"its {what} is {share:.0%} of what this machine can do: the measurement is wrong, "
                "the engine did not do the work (tokens guessed ahead?), or the ceilings are from "
                "a busy moment (`bench calibrate` measures them again)",
            )


def _prefix_hits(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    """A cache may reuse what the cell's own prompts have in common, and a little of anything."""
    hits = figures.get("cached_prompt_share")
    hits = figures.get("server_prefix_hit_share") if hits is None else hits
    if hits is None or hits <= UNEXPECTED_HIT_SHARE:
        return
    expected = reusable_share(cell.requests)
    if expected is not None and hits > expected + UNEXPECTED_HIT_SHARE:
        yield Flag(
            "invalid",
            "unexpected_prefix_hits",
            f"the server took {hits:.0%} of the prompts from its prefix cache, where they have "
            f"only {expected:.0%} in common: it had seen them before",
        )


def _slowed(figures: Figures) -> Iterator[Flag]:
    share = figures.get("slowed_share") or 0.0
    if share > SLOWED_SHARE:
        yield Flag(
            "caution",
            "slowed_gpu",
            f"heat or the hardware held the GPU's clocks down for {share:.0%} of the window",
        )


def _answers_failed(cell: CellResult) -> Iterator[Flag]:
    told = cell.answers.answers if cell.answers else ()
    errors = [answer.error for answer in told if answer.error]
    if len(errors) > UNANSWERED_SHARE * len(told):
        yield Flag(
            "caution",
            "answers_unchecked",
            f"{len(errors)} of {len(told)} questions that check its answers failed: {errors[0]}",
        )


def _token_counts(cell: CellResult) -> Iterator[Flag]:
    sources = set(phase(cell.records, "measure")["token_count_source"].unique().to_pylist())
    if "chunks" in sources:
        yield Flag(
            "caution",
            "tokens_are_chunks",
            "the server gave no token counts, so each chunk was counted as one token",
        )


def _span_s(cell: CellResult) -> float:
    import pyarrow.compute as pc

    measured = phase(cell.records, "measure")
    start, end = pc.min(measured["sent_ns"]).as_py(), pc.max(measured["end_ns"]).as_py()
    return float(end - start) * 1e-9
