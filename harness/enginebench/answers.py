"""Asks a server the fixed questions and keeps what it said: raw facts, nothing compared.

    answers = ask(endpoint, questions(model))

Answers are streamed, so that their tokens come apart as far as the server lets them. Several
questions are under way at once, as under load: an engine whose batches are wrong shows it. Each
is asked with as many extensions of the API as the server takes (`ignore_eos`, `logprobs`).
Which answers are right, reports decide.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from enginebench.questions import Question
from enginebench.types import Endpoint

__all__ = ["Answer", "Answers", "ask"]

AT_ONCE = 4
ASK_TIMEOUT_S = 60.0
TIME_LIMIT_S = 120.0
"""For all questions together; those that it leaves out are answers with an error."""
_EXTENSIONS: Sequence[Mapping[str, Any]] = (
    {"ignore_eos": True, "logprobs": 5},
    {"ignore_eos": True},
    {"logprobs": 5},
    {},
)
_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question. `pieces` are the texts of its chunks, a token each where the
    server sends them so. `logprobs` are, token by token, those of the likeliest tokens by their
    texts, the chosen one among them; empty where the server offers none.
    """

    pieces: tuple[str, ...] = ()
    logprobs: tuple[Mapping[str, float], ...] = ()
    finish_reason: str | None = None
    error: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Answers:
    """`answers[i]` is what the engine said to `questions[i]`."""

    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]


def ask(endpoint: Endpoint, questions: Sequence[Question]) -> Answers:
    """An answer to each; whatever goes wrong with one is its `error`, and nothing is raised."""
    deadline = time.monotonic() + TIME_LIMIT_S
    first, extensions = _first(endpoint, questions[0])

    def answer(question: Question) -> Answer:
        if time.monotonic() > deadline:
            return Answer(error=f"not asked: {TIME_LIMIT_S:g} s were over")
        return _asked(endpoint, question, extensions)[1]

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="question") as pool:
        return Answers(tuple(questions), (first, *pool.map(answer, questions[1:])))


def _first(endpoint: Endpoint, question: Question) -> tuple[Answer, Mapping[str, Any]]:
    """The answer with the most extensions that this server takes, and which those are."""
    for extensions in _EXTENSIONS:
        status, answer = _asked(endpoint, question, extensions)
        if status not in (400, 422):
            break
    return answer, extensions


def _asked(
    endpoint: Endpoint, question: Question, extensions: Mapping[str, Any]
) -> tuple[int | None, Answer]:
    """The status (None: no answer came) and the answer."""
    url = urlsplit(endpoint.base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=ASK_TIMEOUT_S)
    status = None
    try:
        connection.request(
            "POST",
            url.path.rstrip("/") + "/v1/completions",
            _body(endpoint, question, extensions),
            _headers(endpoint),
        )
        response = connection.getresponse()
        status = response.status
        if status != 200:
            said = response.read().decode(errors="replace")
            return status, Answer(error=_short(f"status {status}: {said}"))
        return status, _read(response)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, RecursionError) as error:
        return status, Answer(error=_short(f"{type(error).__name__}: {error}"))
    finally:
        connection.close()


def _body(endpoint: Endpoint, question: Question, extensions: Mapping[str, Any]) -> bytes:
    body = {
        "model": endpoint.model_name,
        "prompt": question.prompt,
        "max_tokens": question.max_tokens,
        "temperature": 0.0,
        "stream": True,
        **extensions,
    }
    return msgspec.json.encode(body)


def _headers(endpoint: Endpoint) -> Mapping[str, str]:
    key = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    return {"Content-Type": "application/json", **key}


def _read(lines: Iterable[bytes]) -> Answer:
    """The events of a stream; a msgspec error for what is none."""
    pieces: list[str] = []
    logprobs: list[Mapping[str, float]] = []
    finish_reason = None
    for line in lines:
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        event = msgspec.json.decode(line[5:], type=_Event)
        if event.error is not None:
            return Answer(tuple(pieces), error=_short(str(event.error)))
        for choice in event.choices:
            pieces += [choice.text] if choice.text else []
            logprobs += choice.logprobs.tokens() if choice.logprobs else ()
            finish_reason = choice.finish_reason or finish_reason
    missing = None if finish_reason else "the stream ended without a finish_reason"
    return Answer(tuple(pieces), tuple(logprobs), finish_reason, missing)


class _Likely(msgspec.Struct):
    """A token of a chat-like list of logprobs."""

    token: str
    logprob: float | None = None


class _Token(_Likely):
    top_logprobs: list[_Likely] = []


class _Logprobs(msgspec.Struct):
    """Both forms that servers have: OpenAI's of completions, and its later one of chats."""

    content: list[_Token] | None = None
    tokens_: list[str] | None = msgspec.field(default=None, name="tokens")
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None

    def tokens(self) -> Iterator[Mapping[str, float]]:
        """Of each token the likeliest ones."""
        for token in self.content or ():
            yield _known({each.token: each.logprob for each in (*token.top_logprobs, token)})
        chosen = zip(self.tokens_ or (), self.token_logprobs or (), strict=False)
        for place, (text, logprob) in enumerate(chosen):
            top = self.top_logprobs[place] if place < len(self.top_logprobs or ()) else None  # type: ignore[index]
            yield _known({**(top or {}), text: logprob})


class _Choice(msgspec.Struct):
    text: str | None = ""
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


def _known(logprobs: Mapping[str, float | None]) -> Mapping[str, float]:
    return {text: value for text, value in logprobs.items() if value is not None}


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_ERROR]
