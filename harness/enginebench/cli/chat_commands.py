"""What a line that begins with a slash does in `bench chat`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click

from enginebench.conversation import Conversation
from enginebench.errors import UnknownNameError, UsageError

__all__ = ["COMMANDS", "run_command"]

Outcome = Literal["quit", "stats"] | None


def run_command(line: str, talk: Conversation) -> Outcome:
    """Do what `line` says; "quit" if the conversation is to end, "stats" if its figures are asked
    for. Raises UsageError.
    """
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        raise UnknownNameError("command", name, COMMANDS)
    return COMMANDS[name](talk, argument.strip())


def _help(talk: Conversation, argument: str) -> Outcome:
    """this list"""
    for name, function in COMMANDS.items():
        click.echo(f"{name:8}  {function.__doc__}", err=True)
    return None


def _reset(talk: Conversation, argument: str) -> Outcome:
    """forget the conversation, keep the system prompt"""
    talk.reset()
    return None


def _system(talk: Conversation, argument: str) -> Outcome:
    """show the system prompt; with a text, set it"""
    if argument:
        talk.system = argument
    else:
        click.echo(talk.system or "(no system prompt)", err=True)
    return None


def _save(talk: Conversation, argument: str) -> Outcome:
    """write the conversation to a file, as JSON"""
    talk.save(_path("/save", argument))
    return None


def _load(talk: Conversation, argument: str) -> Outcome:
    """go on with a conversation from a file"""
    talk.load(_path("/load", argument))
    click.echo(f"{len(talk.turns)} messages", err=True)
    return None


def _stats(talk: Conversation, argument: str) -> Outcome:
    """how many tokens there were, how fast, and in how much memory"""
    return "stats"


def _quit(talk: Conversation, argument: str) -> Outcome:
    """end"""
    return "quit"


def _path(command: str, argument: str) -> Path:
    if not argument:
        raise UsageError(f"{command} needs a file: {command} talk.json")
    return Path(argument).expanduser()


COMMANDS: dict[str, Callable[[Conversation, str], Outcome]] = {
    "/help": _help,
    "/reset": _reset,
    "/system": _system,
    "/save": _save,
    "/load": _load,
    "/stats": _stats,
    "/quit": _quit,
}
