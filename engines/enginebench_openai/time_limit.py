"""Work that may never end, ended in time: chat templates are programs that come with a model file.

Python cannot stop a thread, but it can raise an exception in one; pure Python code, which a
rendered template is, meets it at its next instruction. Each piece of work has a thread of its own,
so that the exception can hit nothing else, and the event loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["OutOfTimeError", "within"]

Result = TypeVar("Result")


class OutOfTimeError(Exception):
    """The work took longer than allowed."""


async def within(limit_s: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises; OutOfTimeError, raised inside it too, after `limit_s`."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(result)  # type: ignore[arg-type]  # None only where it returns None
            else:
                done.set_exception(error)

    def run() -> None:
        try:
            outcome = (work(), None)
        except Exception as error:  # noqa: BLE001  # handed on to who waits
            outcome = (None, error)  # type: ignore[assignment]
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    thread = threading.Thread(target=run, name="limited", daemon=True)
    thread.start()
    try:
        return await asyncio.wait_for(done, limit_s)
    except TimeoutError:
        _raise_in(thread)
        raise OutOfTimeError(f"it took longer than {limit_s:g} s") from None


def _raise_in(thread: threading.Thread) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(OutOfTimeError)
    )
