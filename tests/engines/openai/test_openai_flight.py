"""How a request's handler waits for news."""

from __future__ import annotations

import asyncio

from openai_fakes import FakeTokenizer

from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation
from enginebench_openai.protocol import GenerationRequest, TokenOutput


def flight_of(count: int, *, streaming: bool) -> Flight:
    return Flight(
        [
            Generation(GenerationRequest(str(n), (1,), 9), FakeTokenizer(), index=n, stops=())
            for n in range(count)
        ],
        streaming=streaming,
        arrived_at=0.0,
    )


def give(flight: Flight, index: int, text: str, finish=None) -> None:
    generation = flight.generations[index]
    generation.push(TokenOutput(str(index), tuple(text.encode()), finish))
    flight.tell(generation)


def test_a_handler_that_lags_finds_several_tokens_in_one_piece():
    async def check():
        flight = flight_of(1, streaming=True)
        for letter in "abc":
            give(flight, 0, letter)
        (generation,) = await flight.news()
        assert generation.take() == "abc"
        assert generation.completion_tokens == 3
        waiting = asyncio.create_task(flight.news())
        await asyncio.sleep(0)
        assert not waiting.done()
        give(flight, 0, "d", "length")
        assert [one.take() for one in await waiting] == ["d"]

    asyncio.run(check())


def test_a_whole_answer_wakes_once_when_all_have_ended():
    async def check():
        flight = flight_of(2, streaming=False)
        waiting = asyncio.create_task(flight.news())
        for index, finish in ((0, None), (1, "length"), (0, "length")):
            await asyncio.sleep(0)
            assert not waiting.done()
            give(flight, index, "x", finish)
        assert len(await waiting) == 2

    asyncio.run(check())


def test_an_abandoned_flight_has_no_news():
    async def check():
        flight = flight_of(1, streaming=True)
        waiting = asyncio.create_task(flight.news())
        await asyncio.sleep(0)
        flight.abandon()
        assert await waiting == ()

    asyncio.run(check())
