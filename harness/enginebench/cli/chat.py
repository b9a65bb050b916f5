"""`bench chat`: talk to an engine or to a running server over HTTP.

On a terminal it prompts and says how fast each answer was; through a pipe every line of stdin is a
message and stdout holds the answers alone. The conversation itself is `enginebench.conversation`'s.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginebench.chat_client import ChatClient
from enginebench.chosen_engine import ChosenEngine, choose_engine
from enginebench.cli.chat_commands import COMMANDS, run_command
from enginebench.cli.chat_sampling import sampling_body, sampling_options
from enginebench.cli.plan_options import engine_options
from enginebench.conversation import Conversation
from enginebench.errors import BenchError, EngineError
from enginebench.plugins import PluginManager

if TYPE_CHECKING:
    from enginebench.server import Server

__all__ = ["chat"]


@click.command()
@click.argument("target", metavar="ENGINE|URL")
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.")
@sampling_options
@engine_options
@click.pass_context
def chat(ctx: click.Context, /, **values: Any) -> None:
    """Chat with an engine, or with a server.

    The engine is started for it and stopped at the end; a URL is of a server that runs already.

    \b
    bench chat quant
    bench chat http://127.0.0.1:8000
    echo "Why is the sky blue?" | bench chat quant --temperature 0
    echo "Invent a person" | bench chat quant --json-schema person.json

    Ctrl-C stops the answer, /quit or Ctrl-D the program; /help lists the commands.
    """
    chosen = _chosen(ctx.obj, values)
    limit = {} if values["max_tokens"] is None else {"max_tokens": values["max_tokens"]}
    body = sampling_body(values) | limit
    talk = Conversation(values["system"])
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with _serving(chosen) as server:
        failed = _converse(talk, ChatClient(server.endpoint, body), interactive, server)
        if talk.answers:
            _summarize(talk, server)
    ctx.exit(1 if failed else 0)


def _chosen(manager: PluginManager, values: dict[str, Any]) -> ChosenEngine:
    target, model, settings = values["target"], values["model"], values["settings"]
    if target.startswith(("http://", "https://")):
        return choose_engine(
            "url", model or "remote", values["hardware"], [f"url={target}", *settings], manager
        )
    return choose_engine(target, model, values["hardware"], settings, manager)


@contextmanager
def _serving(chosen: ChosenEngine) -> Iterator[Server]:
    """The engine's server for as long as the context lasts."""
    from enginebench.run_settings import RunSettings
    from enginebench.server import start_server

    with tempfile.TemporaryDirectory(prefix="bench-chat-") as folder:
        click.echo(f"starting {chosen.spec.label} ...", err=True)
        try:
            server = start_server(
                chosen.engine,
                chosen.spec,
                chosen.model,
                log=Path(folder, "engine.log"),
                settings=RunSettings(),
                on_start=lambda pid: None,
            )
        except EngineError as error:
            raise EngineError(f"{error}\n{error.log_tail}".rstrip()) from error
        try:
            yield server
        finally:
            server.stop()


def _converse(talk: Conversation, client: ChatClient, interactive: bool, server: Server) -> bool:
    """Line by line until the input ends or /quit; whether anything failed."""
    failed = False
    for line in _terminal_lines() if interactive else _piped_lines():
        try:
            if line.startswith("/"):
                outcome = run_command(line, talk)
                if outcome == "quit":
                    break
                if outcome == "stats":
                    _summarize(talk, server)
            else:
                _answer(line, talk, client, interactive)
        except BenchError as error:
            click.echo(f"error: {error}", err=True)
            failed = True
    return failed and not interactive


def _summarize(talk: Conversation, server: Server) -> None:
    """Tokens and their rate; the memory of the engine, where it is ours."""
    click.echo(talk.summary(), err=True)
    if server.process is None:
        return
    from enginebench.process_tree import ProcessTree

    memory = ProcessTree(server.process.pid).sample()
    if memory:
        click.echo(f"the engine holds {memory['rss_bytes'] / 1e6:.0f} MB of memory", err=True)


def _terminal_lines() -> Iterator[str]:
    import readline  # noqa: F401 - gives input() its line editing

    click.echo(f"{' '.join(COMMANDS)}; Ctrl-C stops an answer", err=True)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\n(/quit or Ctrl-D ends)", err=True)
            continue
        if line:
            yield line


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin:
        if text := line.strip():
            yield text


def _answer(line: str, talk: Conversation, client: ChatClient, interactive: bool) -> None:
    talk.ask(line)
    try:
        for piece in client.stream(talk.messages()):
            click.echo(piece, nl=False)
    except KeyboardInterrupt:
        if not interactive:
            raise
        click.echo(" (stopped)", nl=False)
    except BenchError:
        talk.unask()
        raise
    click.echo()
    talk.answered(client.answer)
    if interactive:
        click.secho(f"[{client.answer}]", dim=True, err=True)
