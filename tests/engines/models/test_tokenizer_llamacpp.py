"""Token ids of awkward text, by llama.cpp itself: the same vocabulary under every set of rules."""

from __future__ import annotations

import json
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_tokenizer_gguf import PIECES, TEXT, sentence_piece_metadata, word_piece_metadata

from enginebench_models.gguf import GGUFValue, read_gguf
from enginebench_models.gguf_model import config_metadata, gguf_tensors
from enginebench_models.gguf_writer import write_gguf
from enginebench_models.open_gguf import open_gguf
from enginebench_models.pretokenizers import BPE_RULES
from enginebench_models.synthetic import open_synthetic, synthetic_weights

pytestmark = [pytest.mark.peer, pytest.mark.slow]

AWKWARD = [
    TEXT,
    "",
    "a",
    "   lead and trail   ",
    "\n\n\n\t\t  x\r\n y \r z",
    "emoji 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☕️",
    "你好\uff0c世界\uff01こんにちは 안녕하세요",
    "int main(void) { return a->b[0] != ~x; } // é",
    "1 12 123 1234 12345 3.14159 0x1F ١٢٣ ½ Ⅷ",
    "\x00\x01\x07\x1b[0m\x7f\u200b\u202e\ufeff\ufffd",
    "It's I'M they'LL WE'D don't ' 's",
    "naïve café cafe\u0301 Å A\u030a Straße",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "Hello, singing a cafe 12 sings",
    "a" * 300 + " " * 40 + "!" * 50,
]


@contextmanager
def llamacpp(path: Path) -> Iterator[Callable[[str], list[int]]]:
    """Its tokenizer, behind the server that it starts in this process."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 64, 1, 0, False
    server = xllamacpp.Server(params)

    def encode(text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": True}
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[int] = json.load(answer)["tokens"]
        return found

    yield encode


def write_model(path: Path, vocabulary: Mapping[str, GGUFValue]) -> Path:
    """A tiny model of random weights that has this vocabulary."""
    tokens = vocabulary["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    tiny = open_synthetic("synthetic:tiny@f16")
    config = replace(tiny.config, vocab_size=len(tokens))
    tensors = gguf_tensors(synthetic_weights(config, "f16"), config)
    write_gguf(path, config_metadata("tiny", config) | dict(vocabulary), tensors)
    return path


def check(path: Path, *, composed: bool = False) -> None:
    """`composed`: in texts that are composed already, as llama.cpp composes none."""
    ours = open_gguf(path, "tiny").tokenizer
    with llamacpp(path) as theirs:
        for text in [unicodedata.normalize("NFC", t) if composed else t for t in AWKWARD]:
            expected = theirs(text)
            assert ours.encode(text, add_bos=False, parse_special=True) == expected, repr(text)


@pytest.mark.parametrize("rules", ["smollm", "gpt-2", "llama-bpe", "qwen2", "default"])
def test_byte_level_bpe(smollm2_path: Path, tmp_path: Path, rules: str) -> None:
    metadata = read_gguf(smollm2_path).metadata
    vocabulary = {key: metadata[key] for key in metadata if key.startswith("tokenizer.ggml")}
    path = write_model(tmp_path / "bpe.gguf", vocabulary | {"tokenizer.ggml.pre": rules})
    check(path, composed=BPE_RULES[rules].nfc)


def test_sentence_pieces(tmp_path: Path) -> None:
    scores = [-float(rank) for rank in range(len(PIECES))]
    check(write_model(tmp_path / "spm.gguf", sentence_piece_metadata(scores)))


def test_word_pieces(tmp_path: Path) -> None:
    check(write_model(tmp_path / "wpm.gguf", word_piece_metadata()))
