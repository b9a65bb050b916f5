"""A tokenizer, a chat template and an engine small enough to see through; a server over them."""

from __future__ import annotations

import asyncio
import codecs
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx

from enginebench.errors import UsageError
from enginebench_openai.loop import EngineThread
from enginebench_openai.process import OfferedModel, ServerProcess
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput
from enginebench_openai.server import _listen

BOS, EOS, VOCAB = 256, 257, 258
CONTEXT = 64
Reply = Callable[[GenerationRequest], Iterable[tuple[int, ...]]]


class FakeStream:
    def __init__(self, skip_special: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._skip = skip_special

    def push(self, ids: Iterable[int]) -> str:
        return "".join(self._text(token) for token in ids)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)

    def _text(self, token: int) -> str:
        if token < 256:
            return self._decoder.decode(bytes([token]))
        return "" if self._skip else {BOS: "<s>", EOS: "</s>"}[token]


class FakeTokenizer:
    """One token per byte, then BOS and EOS."""

    vocab_size = VOCAB
    bos_id = BOS
    eos_ids = frozenset([EOS])
    special_ids = frozenset([BOS, EOS])
    pieces = (*(bytes([byte]) for byte in range(256)), b"<s>", b"</s>")

    def encode(self, text: str, *, add_bos: bool | None = None, parse_special: bool = False):
        return [BOS] * bool(add_bos) + list(text.encode())

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        stream = self.stream(skip_special)
        return stream.push(ids) + stream.finish()

    def stream(self, skip_special: bool = True) -> FakeStream:
        return FakeStream(skip_special)


class FakeTemplate:
    source = ""

    def render(
        self, messages: Sequence[dict], *, add_generation_prompt: bool = True, **variables: object
    ) -> str:
        if messages[-1]["content"] == "raise":
            raise UsageError("the template refuses this")
        text = "".join(f"{m['role'][0]}:{m['content']}\n" for m in messages)
        return text + "a:" * add_generation_prompt


def spell(text: str) -> list[tuple[int, ...]]:
    """A reply of one byte a step."""
    return [(byte,) for byte in text.encode()]


def say_back(request: GenerationRequest) -> Iterable[tuple[int, ...]]:
    """The prompt, over and over, one token a step."""
    return ((request.prompt[at % len(request.prompt)],) for at in range(request.max_tokens))


class ScriptedEngine:
    """Replies as `reply` says, cut at max_tokens; stands still while `gate` is closed."""

    context_length = CONTEXT
    features: frozenset[Feature] = frozenset()

    def __init__(self, reply: Reply = say_back, *, step_s: float = 0.0) -> None:
        self.reply, self.step_s = reply, step_s
        self.gate = threading.Event()
        self.gate.set()
        self.added: list[GenerationRequest] = []
        self.aborted: list[str] = []
        self.steps = 0
        self.closed = False
        self.raises: BaseException | None = None
        self.cached = 0
        self._running: dict[str, tuple[GenerationRequest, Iterator[tuple[int, ...]], int]] = {}

    def add(self, request: GenerationRequest) -> None:
        if request.prompt == tuple(b"refuse"):
            raise ValueError("this engine has no room for such a prompt")
        self.added.append(request)
        self._running[request.request_id] = (request, iter(self.reply(request)), 0)

    def abort(self, request_id: str) -> None:
        self._running.pop(request_id, None)
        self.aborted.append(request_id)  # last: tests wait for it in another thread

    def has_work(self) -> bool:
        return bool(self._running)

    def step(self) -> Sequence[TokenOutput]:
        if not self.gate.wait(0.005):
            return []
        time.sleep(self.step_s)
        self.steps += 1
        if self.raises is not None:
            raise self.raises
        return [self._advance(*running) for running in list(self._running.values())]

    def stats(self) -> EngineStats:
        return EngineStats(len(self._running), 0, 0, 0, kv_blocks_total=8, kv_blocks_used=3)

    def close(self) -> None:
        self.closed = True

    def _advance(self, request, reply, done) -> TokenOutput:
        name = request.request_id
        tokens = next(reply, None)
        if tokens is None or (EOS in tokens and EOS in request.stop_token_ids):
            del self._running[name]
            return TokenOutput(name, (), "stop", cached_prompt_tokens=self.cached)
        tokens = tokens[: request.max_tokens - done]
        done += len(tokens)
        if done == request.max_tokens:
            del self._running[name]
            return TokenOutput(name, tokens, "length", cached_prompt_tokens=self.cached)
        self._running[name] = (request, reply, done)
        return TokenOutput(name, tokens, cached_prompt_tokens=self.cached)


def http_get(url: str, **more: object) -> httpx.Response:
    """httpx.get without the certificates that it loads each time."""
    return httpx.get(url, verify=False, **more)


def http_post(url: str, **more: object) -> httpx.Response:
    """httpx.post likewise."""
    return httpx.post(url, verify=False, **more)


def link_to(engine):
    """How a server reaches an engine that runs in a thread of it."""
    build = engine if callable(engine) else lambda: engine

    def make_link(receive):
        loop = asyncio.get_running_loop()
        return EngineThread(build, lambda event: loop.call_soon_threadsafe(receive, event))

    return make_link


class Running:
    """A server in a thread of its own; `exit_code` is set when it has ended.

    `engine` may be a function that builds it, or a mapping of several such functions by model;
    `sizes` are those of the models' weights in bytes.
    """

    def __init__(
        self,
        engine,
        *,
        chat_template: object = ...,
        sizes: Mapping[str, int] = types.MappingProxyType({}),
        **settings: object,
    ) -> None:
        self.engine = engine
        listener = _listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        several = engine if isinstance(engine, Mapping) else {"fake": engine}
        self.process = ServerProcess(
            models=[
                OfferedModel(
                    name=name,
                    vocab_size=VOCAB,
                    tokenizer=FakeTokenizer(),
                    chat_template=FakeTemplate() if chat_template is ... else chat_template,
                    make_link=link_to(build),
                    size_bytes=sizes.get(name, 0),
                )
                for name, build in several.items()
            ],
            listener=listener,
            on_ready=lambda: None,
            **{"drain_s": 5.0, **settings},
        )
        self.exit_code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.exit_code = self.process.run()

    def start(self) -> None:
        self._thread.start()
        until(lambda: http_get(f"{self.url}/health").status_code == 200)

    def join(self) -> int | None:
        self._thread.join(20)
        return self.exit_code


@contextmanager
def serving(engine, **settings: object) -> Iterator[Running]:
    """A server that answers; stopped, and its thread joined, at the end."""
    running = Running(engine, **settings)
    running.start()
    try:
        yield running
    finally:
        running.process.stop()
        assert running.join() is not None


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for `condition`, at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
