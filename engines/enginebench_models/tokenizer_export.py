"""A tokenizer of a Hugging Face folder as GGUF metadata: the way back from `tokenizer_gguf`.

GGUF names the way texts are split by a word (`tokenizer.ggml.pre`) where tokenizer.json holds
patterns. The word is found by splitting awkward text both ways, and the whole tokenizer is then
built from the metadata and held to the original; if they differ, there is no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import tokenizers
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models.chat_template import ChatTemplate
from enginebench_models.gguf import GGUFValue
from enginebench_models.json_file import read_json
from enginebench_models.pretokenizers import BPE_RULES, BPERules
from enginebench_models.token_table import TokenKind
from enginebench_models.tokenizer import Tokenizer
from enginebench_models.tokenizer_gguf import tokenizer_from_gguf
from enginebench_models.tokenizer_hf import HFTokenizerFiles

__all__ = ["tokenizer_metadata"]

_PROBES = (
    "Hello world! It's 2024, I'LL pay $3.50 for 12345678 of them.",
    "\n\n  def f(x):\n\treturn x**2   # café\r\n\r\n",
    "e\u0301 \ufb01 ½ ² Ⅳ naïve Straße ΣΊΣΥΦΟΣ",
    "你好,世界。 こんにちは 안녕하세요 שלום नमस्ते ١٢٣",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200b\u00a0\u3000 --- ... !?!? \x00\x01\x7f",
    " leading, trailing ",
    "a",
)
_BYTE_NAMES = {f"<0x{byte:02X}>" for byte in range(256)}
_LAST_RESORT = np.float32(-1e9)  # the score of pieces that no merge makes


class _Model(msgspec.Struct):
    type: str = "BPE"
    merges: list[str | list[str]] = []
    byte_fallback: bool = False


class _TokenizerJson(msgspec.Struct):
    model: _Model


def tokenizer_metadata(
    files: HFTokenizerFiles,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    vocab_size: int,
) -> dict[str, GGUFValue]:
    """`tokenizer.*` keys of the folder's tokenizer, padded to the embedding's `vocab_size` rows."""
    where = f"{files.folder}/tokenizer.json"
    model = read_json(files.folder / "tokenizer.json", _TokenizerJson).model
    if model.type != "BPE":
        raise ModelError(f"{where}: its model is {model.type}; only BPE can be written to GGUF")
    if files.n_tokens > vocab_size:
        raise ModelError(f"{where}: {files.n_tokens} tokens, but {vocab_size} rows of embeddings")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.merges]
    texts = _texts(files, vocab_size)
    metadata: dict[str, GGUFValue] = {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": _kinds(files, texts, byte_fallback=model.byte_fallback),
    }
    if model.byte_fallback:
        metadata |= _sentence_piece(texts, merges, tokenizer)
    else:
        metadata |= _byte_level(files, merges, tokenizer.parsing)
    metadata |= _special(files, tokenizer)
    if template is not None:
        metadata["tokenizer.chat_template"] = template.source
    _check(where, metadata, tokenizer)
    return metadata


def _texts(files: HFTokenizerFiles, vocab_size: int) -> list[str]:
    texts = [f"[PAD{id}]" for id in range(vocab_size)]
    for text, id in (*files.vocabulary.items(), *((text, id) for id, text in files.added.items())):
        texts[id] = text
    return texts


def _kinds(
    files: HFTokenizerFiles, texts: Sequence[str], *, byte_fallback: bool
) -> NDArray[np.int32]:
    kinds = np.full(len(texts), TokenKind.UNUSED, np.int32)
    kinds[list(files.vocabulary.values())] = TokenKind.NORMAL
    kinds[list(files.added)] = TokenKind.USER_DEFINED
    kinds[list(files.special_ids)] = TokenKind.CONTROL
    if byte_fallback:
        kinds[[id for id, text in enumerate(texts) if text in _BYTE_NAMES]] = TokenKind.BYTE
        unknown = files.id_of(files.special_text("unk_token"))
        if unknown is not None:
            kinds[unknown] = TokenKind.UNKNOWN
    return kinds


def _special(files: HFTokenizerFiles, tokenizer: Tokenizer) -> dict[str, GGUFValue]:
    """Ids of the tokens with a role, and whether a text begins with one."""
    ids = {f"{kind}_token_id": files.id_of(files.special_text(f"{kind}_token")) for kind in _ROLES}
    others = sorted(tokenizer.eos_ids - {ids["eos_token_id"]})
    if ids["eos_token_id"] is None and others:
        ids["eos_token_id"] = others.pop(0)
    for key, id in zip(("eot_token_id", "eom_token_id"), others, strict=False):
        ids[key] = id
    found = {f"tokenizer.ggml.{_GGUF_NAMES.get(k, k)}": v for k, v in ids.items() if v is not None}
    return {**found, "tokenizer.ggml.add_bos_token": tokenizer.adds_bos}


_ROLES = ("bos", "eos", "unk", "pad")
_GGUF_NAMES = {"unk_token_id": "unknown_token_id", "pad_token_id": "padding_token_id"}


# ---------------------------------------------------------------- byte-level BPE


def _byte_level(
    files: HFTokenizerFiles, merges: list[str], original: tokenizers.Tokenizer
) -> dict[str, GGUFValue]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_tokenizer(f"{files.folder}/tokenizer.json", original),
        "tokenizer.ggml.merges": merges,
    }


def _pre_tokenizer(where: str, original: tokenizers.Tokenizer) -> str:
    """The name of the rules that split every probe as the original does."""
    whole_words_first = bool(getattr(original.model, "ignore_merges", False))
    words = _words(original)
    for name, rules in BPE_RULES.items():
        if rules.whole_words_first == whole_words_first and _rule_words(rules) == words:
            return name
    raise ModelError(
        f"{where}: splits texts in a way that has no name in GGUF (known: {', '.join(BPE_RULES)})"
    )


def _words(original: tokenizers.Tokenizer) -> list[list[str]]:
    normalizer, splitter = original.normalizer, original.pre_tokenizer
    if splitter is None:
        return []
    normal = [normalizer.normalize_str(text) if normalizer else text for text in _PROBES]
    return [[word for word, _ in splitter.pre_tokenize_str(text)] for text in normal]


def _rule_words(rules: BPERules) -> list[list[str]]:
    normalizer, splitter = rules.normalizer(), rules.pre_tokenizer()
    normal = [normalizer.normalize_str(text) if normalizer else text for text in _PROBES]
    return [[word for word, _ in splitter.pre_tokenize_str(text)] for text in normal]


# ---------------------------------------------------------------- SentencePiece BPE


def _sentence_piece(
    texts: Sequence[str], merges: Iterable[str], tokenizer: Tokenizer
) -> dict[str, GGUFValue]:
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": _scores(texts, merges),
        "tokenizer.ggml.add_space_prefix": tokenizer.strips_space,
    }


def _scores(texts: Sequence[str], merges: Iterable[str]) -> NDArray[np.float32]:
    """Minus the rank of the first merge that makes a piece: pieces are joined in this order."""
    ranks: dict[str, int] = {}
    for merge in merges:
        ranks.setdefault(merge.replace(" ", ""), len(ranks))
    return np.array([-ranks[text] if text in ranks else _LAST_RESORT for text in texts], np.float32)


# ---------------------------------------------------------------- the proof


def _check(where: str, metadata: dict[str, GGUFValue], original: Tokenizer) -> None:
    """ModelError unless a tokenizer built from the metadata gives the same ids and texts."""
    written = tokenizer_from_gguf(metadata, where)
    for text in _PROBES:
        expected = original.encode(text, parse_special=True)
        found = written.encode(text, parse_special=True)
        if found != expected or written.decode(found) != original.decode(expected):
            raise ModelError(
                f"{where}: cannot be told in GGUF: {text!r} would become {found}, not {expected}"
            )
    if written.eos_ids < original.eos_ids:
        missing = sorted(original.eos_ids - written.eos_ids)
        raise ModelError(f"{where}: more tokens end a text than GGUF can name ({missing})")
