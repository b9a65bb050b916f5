"""Tokenizers from GGUF metadata: the real one by its reference ids, others by reference rules."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2 import tokenization_qwen2

from enginebench.errors import ModelError
from enginebench_models.open_gguf import open_gguf
from enginebench_models.pretokenizers import BPE_RULES, byte_alphabet
from enginebench_models.synthetic_vocabulary import vocabulary_metadata
from enginebench_models.tokenizer_gguf import tokenizer_from_gguf

TEXT = "Hello world! 2024 costs $3.50\n\n  def f(x):\n\treturn x**2  # café 你好"
# Of the same text, by llama.cpp's tokenizer.
REFERENCE_IDS = [
    *[19556, 905, 17, 216, 34, 32, 34, 36, 3499, 1885, 35, 30, 37, 32, 8866, 753, 275, 24, 104],
    *[727, 198, 197, 5406, 1792, 828, 34, 216, 907, 37366, 216, 18645, 250, 48392, 138],
]


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    """A function: hypothesis would print the whole vocabulary of a model given as argument."""
    model = open_gguf(smollm2_path, "smollm2-135m")
    return lambda: model


@pytest.fixture(scope="module")
def tiny():
    return tokenizer_from_gguf(vocabulary_metadata(512), "tiny")


# ---------------------------------------------------------------- the real vocabulary


def test_reference_ids(smollm2):
    assert smollm2().tokenizer.encode(TEXT) == REFERENCE_IDS
    assert smollm2().tokenizer.decode(REFERENCE_IDS) == TEXT


def test_the_real_tokenizer_is_built_quickly(smollm2_path):
    spent_s = []
    for _ in range(3):
        start = time.process_time()
        _ = open_gguf(smollm2_path, "smollm2-135m").tokenizer
        spent_s.append(time.process_time() - start)
    assert min(spent_s) < 0.5


def test_the_real_special_tokens(smollm2):
    tokenizer = smollm2().tokenizer
    assert tokenizer.vocab_size == 49_152
    assert tokenizer.bos_id == 1
    assert not tokenizer.adds_bos
    assert tokenizer.eos_ids == {0, 2}  # <|endoftext|>, <|im_end|>
    assert tokenizer.special_ids == set(range(17))


def test_the_real_chat_prompt(smollm2):
    prompt = smollm2().chat_template.render([{"role": "user", "content": "Hi"}])
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = smollm2().tokenizer.encode(prompt, parse_special=True)
    assert ids[0] == 1
    assert ids.count(2) == 2


def without_unknown_bytes(text: str, pieces) -> str:
    """A few bytes that no text in practice has are no tokens of the real vocabulary."""
    known = {piece for piece in pieces if len(piece) == 1}
    return bytes(byte for byte in text.encode() if bytes([byte]) in known).decode(
        "utf-8", "replace"
    )


@given(text=st.text())
def test_any_text_comes_back(smollm2, text):
    tokenizer = smollm2().tokenizer
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == without_unknown_bytes(text, tokenizer.pieces)
    assert not tokenizer.special_ids.intersection(ids)


@given(text=st.text(), step=st.integers(1, 4))
def test_a_stream_gives_the_same_text(smollm2, text, step):
    ids = smollm2().tokenizer.encode(text)
    stream = smollm2().tokenizer.stream()
    parts = [stream.push(ids[at : at + step]) for at in range(0, len(ids), step)]
    assert "".join(parts) + stream.finish() == smollm2().tokenizer.decode(ids)


# ---------------------------------------------------------------- rules


def test_special_tokens_are_plain_text_unless_parsed(tiny):
    assert tiny.encode("<|im_end|>", parse_special=True) == [2]
    plain = tiny.encode("<|im_end|>")
    assert 2 not in plain
    assert tiny.decode(plain) == "<|im_end|>"
    assert tiny.decode([1, *plain, 2]) == "<|im_end|>"
    assert tiny.decode([1, 2], skip_special=False) == "<|im_start|><|im_end|>"


def test_bos_is_added_when_asked_for_or_by_the_model():
    metadata = vocabulary_metadata(300)
    tokenizer = tokenizer_from_gguf(metadata, "x")
    assert tokenizer.encode("a") == tokenizer.encode("a", add_bos=False)
    assert tokenizer.encode("a", add_bos=True) == [0, *tokenizer.encode("a")]
    adding = tokenizer_from_gguf(metadata | {"tokenizer.ggml.add_bos_token": True}, "x")
    assert adding.encode("a")[0] == 0
    del metadata["tokenizer.ggml.add_bos_token"]  # llama-bpe adds it unless told otherwise
    assert tokenizer_from_gguf(metadata, "x").encode("a")[0] == 0


def test_user_defined_tokens_are_always_found():
    metadata = vocabulary_metadata(300)
    metadata["tokenizer.ggml.tokens"][299] = "<tool>"
    metadata["tokenizer.ggml.token_type"][299] = 4
    tokenizer = tokenizer_from_gguf(metadata, "x")
    assert tokenizer.encode("a<tool>b") == [*tokenizer.encode("a"), 299, *tokenizer.encode("b")]
    assert tokenizer.decode([299]) == "<tool>"


def split(name: str, text: str) -> list[str]:
    return [word for word, _ in BPE_RULES[name].pre_tokenizer().pre_tokenize_str(text)]


@given(text=st.text())
def test_gpt2_words_are_those_of_the_library(text):
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    assert split("gpt-2", text) == [word for word, _ in theirs.pre_tokenize_str(text)]


@given(text=st.text(st.characters(codec="ascii")))
def test_smollm_splits_digits_singly_first(text):
    theirs = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    assert split("smollm", text) == [word for word, _ in theirs.pre_tokenize_str(text)]


def test_patterns_are_those_of_transformers():
    assert BPE_RULES["qwen2"].patterns == (tokenization_qwen2.PRETOKENIZE_REGEX,)
    assert BPE_RULES["llama-bpe"].patterns == (TikTokenConverter().pattern,)


def test_default_splits_as_llama_cpp_does():
    assert split("default", "It's 12345!?") == ["It", "'", "s", "Ġ", "123", "45", "!?"]


def test_the_byte_alphabet_is_the_library_s():
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    for letter, byte in byte_alphabet().items():
        theirs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        if byte < 0x80:
            assert theirs.pre_tokenize_str(chr(byte))[0][0] == letter
    assert len(byte_alphabet()) == 256


# ---------------------------------------------------------------- SentencePiece


PIECES = ["▁", "a", "b", "c", "▁a", "ab", "bc", "▁ab", "abc", "cab", "ca", "▁c", "▁ca", "é"]


def sentence_piece_metadata(scores: list[float]) -> dict:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    texts = ["<unk>", "<s>", "</s>", *bytes_, *PIECES]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(PIECES)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": np.array([0.0] * 259 + scores, np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def sentence_piece_reference(text: str, scores: dict[str, float]) -> list[str]:
    """The algorithm of its authors: join the best-scoring neighbours, the leftmost first."""
    parts = list(("▁" + text).replace(" ", "▁")) if text else []
    while True:
        joins = [
            (-scores[left + right], at)
            for at, (left, right) in enumerate(pairwise(parts))
            if left + right in scores
        ]
        if not joins:
            break
        at = min(joins)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [
        piece
        for part in parts
        for piece in ([part] if part in scores else (f"<0x{byte:02X}>" for byte in part.encode()))
    ]


@given(
    order=st.permutations(range(len(PIECES))),
    text=st.text(st.sampled_from("abc é☕"), max_size=20),
)
def test_sentence_piece_joins_the_best_scoring_neighbours(order, text):
    scores = [-float(rank) for rank in order]
    metadata = sentence_piece_metadata(scores)
    tokenizer = tokenizer_from_gguf(metadata, "spm")
    texts = metadata["tokenizer.ggml.tokens"]
    expected = sentence_piece_reference(text, dict(zip(PIECES, scores, strict=True)))
    ids = tokenizer.encode(text, add_bos=False)
    assert [texts[id] for id in ids] == expected
    assert tokenizer.decode(ids) == text


def test_sentence_piece_special_tokens():
    tokenizer = tokenizer_from_gguf(sentence_piece_metadata([0.0] * len(PIECES)), "spm")
    assert tokenizer.adds_bos
    assert tokenizer.encode("")[0] == 1
    assert tokenizer.encode("a</s>", parse_special=True)[-1] == 2
    assert 2 not in tokenizer.encode("a</s>")
    assert tokenizer.eos_ids == {2}


def test_phi3_special_tokens_swallow_the_space_behind_them():
    metadata = sentence_piece_metadata([0.0] * len(PIECES))
    plain = tokenizer_from_gguf(metadata, "spm")
    phi3 = tokenizer_from_gguf(metadata | {"general.architecture": "phi3"}, "spm")
    parsed = phi3.encode("</s>  \n a", parse_special=True)
    assert parsed == plain.encode("</s>a", parse_special=True)
    assert parsed != plain.encode("</s>  \n a", parse_special=True)
    kept = "<s> a"
    assert phi3.encode(kept, parse_special=True) == plain.encode(kept, parse_special=True)


@pytest.mark.parametrize("half", ["\ud83d", "\udc4b"])
def test_half_of_a_surrogate_pair_is_the_replacement_character(tiny, half):
    spm = tokenizer_from_gguf(sentence_piece_metadata([0.0] * len(PIECES)), "spm")
    for tokenizer in (tiny, spm):
        assert tokenizer.encode(f"a{half}b") == tokenizer.encode("a\ufffdb")
    assert tiny.decode(tiny.encode(f"a{half}b")) == "a\ufffdb"


# ---------------------------------------------------------------- WordPiece

WORD_PIECES = ["hello", "sing", "##ing", "##s", ",", "\u4f60", "1", "##2", "cafe", "a"]


def word_piece_metadata() -> dict:
    marked = [p.removeprefix("##") if p.startswith("##") else "\u2581" + p for p in WORD_PIECES]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *marked],
        "tokenizer.ggml.token_type": np.array([3, 2, 3, 3, *[1] * len(marked)], np.int32),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
    }


@pytest.mark.parametrize(
    "text",
    [
        "Hello, singing a",
        "caf\u00e9 \u4f60\u4f60 12",
        "sings\x00\x07 12\t1\n",
        "\U0001f44b hello \ufffd",
        "unheard of",
        "",
    ],
)
def test_word_pieces_are_those_of_transformers(tmp_path, text):
    from transformers import BertTokenizer

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORD_PIECES]), "utf-8")
    expected = BertTokenizer(str(vocabulary)).encode(text, add_special_tokens=False)
    tokenizer = tokenizer_from_gguf(word_piece_metadata(), "bert")
    assert tokenizer.encode(text, add_bos=False) == expected


def test_word_pieces_become_words_again():
    tokenizer = tokenizer_from_gguf(word_piece_metadata(), "bert")
    assert tokenizer.encode("hello")[0] == 2
    assert tokenizer.decode(tokenizer.encode("Hello singing 12")) == "hello singing 12"


# ---------------------------------------------------------------- bad metadata


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokens", None, "tokens is missing: it has no tokenizer"),
        ("model", "t5", r"model 't5' is not supported \(known: gpt2, llama, bert\)"),
        ("pre", "qwen", "unknown pre-tokenizer 'qwen'; did you mean qwen2"),
        ("merges", None, "merges is missing"),
        ("merges", ["a zz"], "'a zz', which does not join two tokens"),
        ("merges", ["nospace"], "'nospace', which does not join"),
        ("token_type", np.ones(3, np.int32), "a number for each of 300 tokens"),
        ("eos_token_id", 300, "eos_token_id is 300, no id of the vocabulary"),
        ("bos_token_id", "a", "bos_token_id is 'a'"),
    ],
)
def test_bad_metadata_is_named(key, value, message):
    metadata = vocabulary_metadata(300)
    metadata[f"tokenizer.ggml.{key}"] = value
    if value is None:
        del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(ModelError, match=message):
        tokenizer_from_gguf(metadata, "file.gguf")
