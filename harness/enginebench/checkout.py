"""A commit as something that can be measured: its own git worktree and its own `bench`.

    with checkout(commit, Path("checks/1/checkout"), Installation(), Path("build.log")) as bench:
        subprocess.run([*bench.argv, "engines"], env=bench.env)

By default the commit gets a virtual environment, into which pip installs it, editable, with its
`constraints.txt` if it has one. With `keep_environment` it runs in ours: the folders of the
repository from which Python imports here are replaced by those of the worktree, so that nothing but
the source differs. Worktree and environment are gone afterwards, even if we are killed
(`enginebench.keeper`); nothing is changed in the repository itself.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginebench import keeper
from enginebench.errors import EngineError, UsageError
from enginebench.process import NotStarted, describe_exit, log_tail, start
from enginebench.revision import REVISION_VARIABLE, git

__all__ = ["Installation", "OtherBench", "checkout", "commit_of", "run_command", "this_bench"]

BENCH = "from enginebench.cli import main; main(prog_name='bench')"
VENV = ("-m", "venv")
LOG_LINES = 15
WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Installation:
    """How a worktree becomes runnable: `command` is for the shell, in the worktree; None: pip."""

    command: str | None = None
    keep_environment: bool = False


@dataclass(frozen=True, slots=True)
class OtherBench:
    """A `bench` that may be of another version: how it is called."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]


def commit_of(reference: str) -> str | None:
    """The commit that a branch, tag or hash means in the repository of the working folder."""
    return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")


def this_bench(name: str) -> OtherBench:
    """The `bench` that runs now."""
    return OtherBench(name, (sys.executable, "-P", "-c", BENCH), dict(os.environ))


@contextmanager
def checkout(
    commit: str, folder: Path, installation: Installation, log: Path
) -> Iterator[OtherBench]:
    """The `bench` of `commit`, as long as the context lasts; `folder` must not exist.

    What git and pip say goes to `log`. Raises UsageError without a repository, EngineError where
    the commit cannot be installed.
    """
    top = git("rev-parse", "--show-toplevel")
    if top is None:
        raise UsageError("this folder is in no git repository; change to the one to be measured")
    folder = folder.resolve()
    with _kept(Path(top), folder):
        tree = folder / "tree"
        add = ["git", "worktree", "add", "--detach", str(tree), commit]
        run_command(add, log, dict(os.environ), f"git cannot check out {commit}")
        if installation.keep_environment:
            yield _swapped(commit, Path(top).resolve(), tree)
        else:
            yield _installed(commit, folder, installation.command, log)


def run_command(argv: Sequence[str], log: Path, env: Mapping[str, str], trouble: str) -> None:
    """Run under a guard to its end; raises EngineError, beginning with `trouble`, if it fails."""
    code = guarded_exit(argv, log, env)
    if code != 0:
        tail = "\n".join(f"    {line}" for line in log_tail(log, LOG_LINES).splitlines())
        raise EngineError(f"{trouble}: {shlex.join(argv)} {describe_exit(code)}\n{tail}")


def guarded_exit(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> int | None:
    """The exit code of a command that does not outlive us."""
    try:
        with start(argv, log=log, env=env) as process:
            while (code := process.wait(WAIT_S)) is None:
                continue
            return code
    except NotStarted as error:
        raise EngineError(str(error)) from error


@contextmanager
def _kept(repository: Path, folder: Path) -> Iterator[None]:
    """The folder exists meanwhile; its removal is the keeper's."""
    folder.mkdir(parents=True)
    argv = [sys.executable, "-I", "-S", keeper.__file__, str(repository), str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as keeping:
        assert keeping.stdin is not None
        try:
            yield
        finally:
            keeping.stdin.close()
            keeping.wait()


def _installed(commit: str, folder: Path, command: str | None, log: Path) -> OtherBench:
    tree, home = folder / "tree", folder / "env"
    plain = {name: text for name, text in os.environ.items() if name not in _PYTHONS}
    trouble = f"the environment of {commit[:12]} cannot be built"
    run_command([sys.executable, *VENV, str(home)], log, plain, trouble)
    env = plain | {
        "VIRTUAL_ENV": str(home),
        "PATH": f"{home / 'bin'}{os.pathsep}{plain.get('PATH', os.defpath)}",
        REVISION_VARIABLE: commit,
    }
    script = f"cd {shlex.quote(str(tree))} && {command or _pip(tree)}"
    run_command(["/bin/sh", "-c", script], log, env, trouble)
    bench = home / "bin" / "bench"
    if not bench.exists():
        raise EngineError(
            f"{trouble}: it has no command `bench`; let --install install enginebench too"
        )
    return OtherBench(commit, (str(bench),), env)


_PYTHONS = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})


def _pip(tree: Path) -> str:
    constraints = "-c constraints.txt " if (tree / "constraints.txt").is_file() else ""
    return f"python -m pip install -q --disable-pip-version-check {constraints}-e ."


def _swapped(commit: str, top: Path, tree: Path) -> OtherBench:
    """Our environment; what Python imports from the repository comes from the worktree."""
    roots = [tree / root for root in _source_roots(top)]
    if not any(root.is_dir() for root in roots):
        raise UsageError(
            f"Python imports nothing from {top}, so there is no source to replace by that of "
            f"{commit[:12]}; install it with `pip install -e`, or leave --keep-environment out"
        )
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = [path for path in others if path and not Path(path).resolve().is_relative_to(top)]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, roots), *ours]),
        "PYTHONSAFEPATH": "1",  # or the working folder would come before them
        REVISION_VARIABLE: commit,
    }
    return OtherBench(commit, this_bench(commit).argv, env)


def _source_roots(top: Path) -> Sequence[Path]:
    """Where Python looks within the repository, relative to it; not its environments."""
    found = [Path(path).resolve() for path in sys.path if path]
    return [
        path.relative_to(top)
        for path in found
        if path.is_relative_to(top)
        and not path.is_relative_to(Path(sys.prefix).resolve())
        and "site-packages" not in path.parts
    ]
