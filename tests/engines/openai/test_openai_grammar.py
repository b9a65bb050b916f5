"""Masks from grammars: exactly the tokens that keep the output on its way, and ends at its end."""

from __future__ import annotations

import json

import numpy as np
import pytest

from enginebench_models import open_model
from enginebench_openai.grammar import GrammarMatcher, Grammars, check_grammar, mask_words
from enginebench_openai.protocol import Grammar

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}
GRAMMARS = [
    (Grammar("json_object"), '{"a": [1, 2.5, null]}', "[1]"),
    (Grammar("json_schema", json.dumps(SCHEMA)), '{"name": "Ada", "ok": true}', '{"ok": 1}'),
    (Grammar("regex", "(yes|no)!?"), "no!", "maybe"),
    (Grammar("lark", 'start: "a" start "b" | "ab"'), "aaabbb", "aab!"),
    (Grammar("gbnf", 'root ::= "x" [0-9]+ ";"'), "x42;", "x;"),
]
BROKEN = [
    Grammar("json_schema", '{"type": "colour"}'),
    Grammar("json_schema", "{"),
    Grammar("json_schema", "[]"),
    Grammar("regex", "(("),
    Grammar("lark", "start: missing"),
    Grammar("gbnf", "root ::= missing"),
    Grammar("regex", "a" * 200_001),
]


@pytest.fixture(scope="module")
def model():
    return open_model("synthetic:tiny")


@pytest.fixture(scope="module")
def grammars(model):
    return Grammars(model.tokenizer, model.config.vocab_size)


def ids(model, text):
    return model.tokenizer.encode(text, add_bos=False)


def follows(model, matcher: GrammarMatcher, text: str) -> bool:
    for token in ids(model, text):
        if not matcher.allowed()[token]:
            return False
        matcher.accept(token)
    return bool(matcher.allowed()[sorted(model.tokenizer.eos_ids)].all())


@pytest.mark.parametrize(("grammar", "good", "bad"), GRAMMARS, ids=lambda value: str(value)[:30])
def test_a_grammar_allows_what_matches_and_nothing_else(model, grammars, grammar, good, bad):
    assert follows(model, grammars.matcher(grammar), good)
    assert not follows(model, grammars.matcher(grammar), bad)


def test_an_end_is_allowed_only_where_the_output_is_complete(model, grammars):
    matcher, ends = grammars.matcher(Grammar("regex", "ab*")), sorted(model.tokenizer.eos_ids)
    assert not matcher.allowed()[ends].any()
    matcher.accept(ids(model, "a")[0])
    assert matcher.allowed()[ends].all() and not matcher.finished


def test_what_nothing_may_follow_is_finished(model, grammars):
    matcher = grammars.matcher(Grammar("regex", "a"))
    assert not matcher.finished
    matcher.accept(ids(model, "a")[0])
    assert matcher.finished


def test_packed_bits_say_the_same(model, grammars):
    matcher = grammars.matcher(Grammar("json_object"))
    words = np.zeros(mask_words(model.config.vocab_size), np.int32)
    matcher.fill(words)
    bits = [(words[i // 32] >> (i % 32)) & 1 for i in range(model.config.vocab_size)]
    assert np.array_equal(np.array(bits, bool), matcher.allowed())


def test_matchers_of_one_grammar_are_apart(model, grammars):
    first, second = (grammars.matcher(Grammar("regex", "ab")) for _ in range(2))
    first.accept(ids(model, "a")[0])
    assert second.allowed()[ids(model, "a")[0]]


@pytest.mark.parametrize("grammar", BROKEN, ids=lambda grammar: grammar.text[:20])
def test_a_broken_grammar_is_refused_with_or_without_a_vocabulary(grammars, grammar):
    with pytest.raises(ValueError, match=r"cannot be compiled|characters"):
        check_grammar(grammar)
    with pytest.raises(ValueError, match=r"cannot be compiled|characters"):
        grammars.matcher(grammar)
