"""Output that matches a grammar: which tokens may come next, worked out by `llguidance`.

One place for all engines. An engine makes one `Grammars` of its model's tokenizer and asks it for a
matcher per request; before each draw the matcher says which tokens are allowed, afterwards it is
told which one was drawn:

    matcher = grammars.matcher(request.grammar)    # ValueError: the grammar cannot be compiled
    logits[~matcher.allowed()] = -inf              # or fill a row of packed bits
    matcher.accept(token)
    matcher.finished                               # nothing may follow: end with "stop"

End tokens are allowed exactly where the output so far is complete. `check_grammar` finds most of
what is wrong with a grammar without a tokenizer, so that the front can refuse it by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.protocol import Grammar

if TYPE_CHECKING:
    import llguidance

    from enginebench_models import Tokenizer

__all__ = ["GrammarMatcher", "Grammars", "check_grammar", "mask_words"]

KEPT: Final = 32  # compiled grammars; a copy of one costs microseconds
MAX_CHARS: Final = 200_000
# As much white space as people and models write; without a bound a model can write it for ever.
# oneOf is taken for anyOf: that exactly one branch fits cannot be told token by token.
_JSON_OPTIONS: Final = {
    "whitespace_pattern": r"[ ]?|\n{1,2}[ \t]{0,20}",
    "coerce_one_of": True,
}


def mask_words(vocab_size: int) -> int:
    """Length of a packed mask: int32 words, bit `i % 32` of word `i // 32` is token i's."""
    return -(-vocab_size // 32)


class GrammarMatcher:
    """Where one request stands in its grammar."""

    __slots__ = ("_matcher", "_vocab_size")

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    @property
    def finished(self) -> bool:
        """Whether the output is complete and nothing but an end may follow."""
        return self._matcher.is_stopped()

    def fill(self, words: NDArray[np.int32]) -> None:
        """Write the allowed tokens as packed bits into `words` (mask_words(vocab_size),)."""
        assert words.dtype == np.int32 and words.flags.c_contiguous
        assert words.size == mask_words(self._vocab_size)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (vocab_size,)."""
        words = np.zeros(mask_words(self._vocab_size), np.int32)
        self.fill(words)
        bits = np.unpackbits(words.view(np.uint8), count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token_id: int) -> None:
        """A token was drawn; one that was not allowed is the caller's defect."""
        accepted = self._matcher.consume_token(token_id)
        assert accepted, f"token {token_id}: {self._matcher.get_error()}"


class Grammars:
    """Compiles grammars for one vocabulary; the latest ones are kept."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` is the number of logits, at least that of the tokenizer."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._vocabulary: llguidance.LLTokenizer | None = None  # made when first asked for
        self._compiled: OrderedDict[Grammar, llguidance.LLMatcher] = OrderedDict()

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at its start; ValueError says what is wrong with the grammar."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compile(grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return GrammarMatcher(compiled.deep_copy(), self._vocab_size)

    def _compile(self, grammar: Grammar) -> llguidance.LLMatcher:
        library = _library()
        if self._vocabulary is None:
            self._vocabulary = library.LLTokenizer(
                library.TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size)),
                n_vocab=self._vocab_size,
                eos_token=sorted(self._tokenizer.eos_ids),
            )
        matcher: llguidance.LLMatcher = library.LLMatcher(
            self._vocabulary, _source(grammar), log_level=0
        )
        if matcher.is_error():
            raise _invalid(grammar, matcher.get_error())
        return matcher


def check_grammar(grammar: Grammar) -> None:
    """ValueError if the grammar is wrong whatever the vocabulary."""
    problem = _library().LLMatcher.validate_grammar(_source(grammar))
    if problem:
        raise _invalid(grammar, problem)


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        padding = vocab_size - len(tokenizer.pieces)
        self.tokens = [*tokenizer.pieces, *[b""] * padding]
        self.special_token_ids = sorted(tokenizer.special_ids | tokenizer.eos_ids)
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, add_bos=False)


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own notation."""
    if len(grammar.text) > MAX_CHARS:
        raise ValueError(f"the grammar has {len(grammar.text)} characters; at most {MAX_CHARS}")
    library = _library()
    compiler, text = library.LLMatcher, grammar.text
    if grammar.kind == "json_object":
        return str(compiler.grammar_from_json_schema({"type": "object"}, overrides=_JSON_OPTIONS))
    if grammar.kind == "regex":
        return str(compiler.grammar_from_regex(text))
    if grammar.kind == "lark":
        return str(compiler.grammar_from_lark(text))
    try:
        if grammar.kind == "gbnf":
            return str(library.grammar_from("gbnf", text))
        return str(compiler.grammar_from_json_schema(text, overrides=_JSON_OPTIONS))
    except Exception as error:  # the parsers have no common error type
        raise _invalid(grammar, str(error)) from error


def _invalid(grammar: Grammar, problem: str) -> ValueError:
    return ValueError(f"the {grammar.kind} cannot be compiled: {problem.strip()[:500]}")


def _library() -> Any:
    """Imported when first needed: most servers never see a grammar."""
    try:
        import llguidance
    except ImportError:
        raise ValueError(
            "grammars and JSON schemas need llguidance on the server: "
            "pip install 'enginebench[structured]'"
        ) from None
    return llguidance
