"""What a tokenizer is built from, held until it is built: lists of tokens and merges are large."""

from __future__ import annotations

import threading
from collections.abc import Callable

from enginebench_models.tokenizer import Tokenizer

__all__ = ["TokenizerSource"]


class TokenizerSource:
    """Gives the tokenizer that `build` makes; `build`, and what it holds, is dropped then."""

    def __init__(self, build: Callable[[], Tokenizer]) -> None:
        self._build: Callable[[], Tokenizer] | None = build
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Tokenizer:
        with self._lock:
            if self._build is not None:
                self._tokenizer = self._build()
                self._build = None
        assert self._tokenizer is not None
        return self._tokenizer
