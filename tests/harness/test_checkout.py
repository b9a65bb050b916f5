"""A commit that can be run: its source, its environment, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginebench.checkout import Installation, checkout, commit_of
from enginebench.errors import EngineError, UsageError
from enginebench.revision import git, revision, tree_digest

KEPT = Installation(keep_environment=True)


def run_git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: two commits of a package that says which of them it is."""
    top = tmp_path / "repository"
    (top / "src").mkdir(parents=True)
    run_git(top, "init", "-q", "-b", "main")
    for version in ("old", "new"):
        (top / "src" / "probe_of_version.py").write_text(f"VERSION = {version!r}\n")
        run_git(top, "add", ".")
        run_git(top, "commit", "-qm", version)
        run_git(top, "tag", version)
    monkeypatch.chdir(top)
    monkeypatch.delenv("ENGINEBENCH_REVISION", raising=False)
    monkeypatch.syspath_prepend(str(top / "src"))
    return top


def commit(reference: str) -> str:
    found = commit_of(reference)
    assert found is not None
    return found


def is_gone(folder: Path) -> bool:
    worktrees = git("worktree", "list") or ""
    return not folder.exists() and len(worktrees.splitlines()) == 1


def test_references_become_commits(repository: Path) -> None:
    assert commit_of("old") == commit_of("main~1") != commit_of("new") == revision()
    assert [commit_of(text) for text in ("nowhere", "--help", "", "old:src")] == [None] * 4


def test_what_is_not_committed_shows(repository: Path) -> None:
    clean = tree_digest()
    (repository / "src" / "probe_of_version.py").write_text("VERSION = 'newest'\n")
    assert revision() == f"{commit('main')}+changes"
    assert tree_digest() != clean


def test_outside_a_repository_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert (commit_of("main"), revision(), tree_digest()) == (None, None, None)
    with (
        pytest.raises(UsageError, match="in no git repository"),
        checkout("0" * 40, tmp_path / "checkout", KEPT, tmp_path / "log"),
    ):
        pass


def test_only_the_source_is_swapped_and_nothing_stays(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    probe = "import os, probe_of_version as p; print(p.VERSION, os.environ['ENGINEBENCH_REVISION'])"
    with checkout(commit("old"), folder, KEPT, tmp_path / "log") as bench:
        said = subprocess.check_output([sys.executable, "-c", probe], env=bench.env, text=True)
        assert said.split() == ["old", commit("old")]
        assert bench.argv[0] == sys.executable
    assert is_gone(folder)
    assert git("status", "--porcelain") == "" and git("branch", "--show-current") == "main"


def test_an_error_leaves_nothing_behind_either(repository: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        checkout(commit("old"), tmp_path / "checkout", KEPT, tmp_path / "log"),
    ):
        raise ZeroDivisionError
    assert is_gone(tmp_path / "checkout")


def test_a_repository_that_nothing_is_imported_from_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(sys.prefix))])
    with (
        pytest.raises(UsageError, match="no source to replace"),
        checkout(commit("old"), tmp_path / "checkout", KEPT, tmp_path / "log"),
    ):
        pass
    assert is_gone(tmp_path / "checkout")


KILLED = """
import sys, time
from pathlib import Path
from enginebench.checkout import Installation, checkout
folder = Path(sys.argv[1])
with checkout("old", folder, Installation(keep_environment=True), folder.with_suffix(".log")):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_owner_leaves_nothing_behind(
    repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "checkout"
    argv = [sys.executable, "-c", KILLED, str(folder)]
    env = {**os.environ, "PYTHONPATH": "src"}
    with subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"ready\n"
        assert (folder / "tree" / "src").is_dir()
        owner.send_signal(number)
    deadline = time.monotonic() + 30
    while not is_gone(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(folder)


@pytest.mark.slow
def test_a_commit_gets_an_environment_of_its_own(repository: Path, tmp_path: Path) -> None:
    script = "#!/bin/sh\\necho bench of $(python -c 'import sys; print(sys.prefix)')\\n"
    command = f'printf "{script}" > "$VIRTUAL_ENV/bin/bench" && chmod +x "$VIRTUAL_ENV/bin/bench"'
    installation = Installation(f"test -d src && {command}")
    folder = tmp_path / "checkout"
    with checkout(commit("old"), folder, installation, tmp_path / "log") as bench:
        said = subprocess.check_output(bench.argv, env=bench.env, text=True)
        assert said.strip() == f"bench of {folder / 'env'}"
    assert is_gone(folder)


@pytest.mark.parametrize(
    ("command", "message"),
    [("echo no such package; false", "no such package"), ("true", "has no command `bench`")],
)
def test_what_cannot_be_installed_is_told(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    empty = "import os, sys; os.makedirs(os.path.join(sys.argv[1], 'bin'))"
    monkeypatch.setattr("enginebench.checkout.VENV", ("-c", empty))
    with (
        pytest.raises(EngineError, match=f"(?s)cannot be built.*{message}"),
        checkout(commit("old"), tmp_path / "checkout", Installation(command), tmp_path / "log"),
    ):
        pass
    assert is_gone(tmp_path / "checkout")
