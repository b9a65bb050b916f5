"""In which order commits came: as the repository has them, else by their dates.

Dates lie: a rebased or amended commit may be older than its parent. Where the git repository of the
working folder has all commits of a history, their order is topological: no commit comes before one
that it rests on. Where it lacks any (the history came from elsewhere), dates have to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from enginebench.revision import git

if TYPE_CHECKING:
    from enginebench_reports.history_store import Commit

__all__ = ["places"]


def places(commits: Sequence[Commit]) -> Mapping[str, int]:
    """Each commit's place, by its id; equal dates keep the order in which they were given."""
    by_date = sorted({each.id: each for each in commits}.values(), key=lambda commit: commit.at)
    ids = [commit.id for commit in by_date]
    known = _topological(ids)
    ordered = known if known is not None else ids
    return {commit: place for place, commit in enumerate(ordered)}


def _topological(ids: Sequence[str]) -> Sequence[str] | None:
    """Parents first; None where the repository at hand does not have all of them."""
    if not ids:
        return None
    told = git("rev-list", "--topo-order", "--reverse", *ids, "--")
    wanted = set(ids)
    found = [commit for commit in (told or "").split() if commit in wanted]
    return found if len(found) == len(wanted) else None
