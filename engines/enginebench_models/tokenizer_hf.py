"""Tokenizer and chat template from a Hugging Face folder: tokenizer.json and what is beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from enginebench.errors import ModelError
from enginebench_models.chat_template import ChatTemplate
from enginebench_models.json_file import read_json
from enginebench_models.pretokenizers import byte_alphabet
from enginebench_models.sentencepiece import sentence_pieces
from enginebench_models.tokenizer import Tokenizer

__all__ = ["HFTokenizerFiles", "chat_template_from_hf", "read_tokenizer_files", "tokenizer_from_hf"]


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool


class _Model(msgspec.Struct):
    vocab: dict[str, int]


class _TokenizerJson(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []
    decoder: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HFTokenizerFiles:
    """What the files say, before anything is built of it. `settings` is tokenizer_config.json."""

    folder: Path
    vocabulary: Mapping[str, int]
    added: Mapping[int, str]
    special_ids: frozenset[int]
    decoder: dict[str, Any]
    settings: dict[str, Any]

    @property
    def n_tokens(self) -> int:
        """One more than the largest id."""
        return 1 + max([*self.vocabulary.values(), *self.added])

    def special_text(self, kind: str) -> str | None:
        """The text of `bos_token`, `eos_token` ..., which is written in either of two ways."""
        token = self.settings.get(kind)
        if isinstance(token, dict):
            token = token.get("content")
        return token if isinstance(token, str) else None

    def id_of(self, text: str | None) -> int | None:
        """The id of a token text, added tokens first."""
        if text is None:
            return None
        ids = {content: id for id, content in self.added.items()}
        return ids.get(text, self.vocabulary.get(text))


def read_tokenizer_files(folder: Path) -> HFTokenizerFiles:
    """Read and check tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    path = folder / "tokenizer.json"
    parsed = read_json(path, _TokenizerJson)
    if not parsed.model.vocab or min(parsed.model.vocab.values()) < 0:
        raise ModelError(f"{path}: its vocabulary is empty or has negative ids")
    n_listed = len(parsed.model.vocab) + len(parsed.added_tokens)
    largest = max([*parsed.model.vocab.values(), *(token.id for token in parsed.added_tokens)])
    if largest > 4 * n_listed:
        raise ModelError(f"{path}: token id {largest} in a vocabulary of {n_listed} tokens")
    settings = _read_optional(folder / "special_tokens_map.json")
    return HFTokenizerFiles(
        folder=folder,
        vocabulary=parsed.model.vocab,
        added={token.id: token.content for token in parsed.added_tokens},
        special_ids=frozenset(token.id for token in parsed.added_tokens if token.special),
        decoder=parsed.decoder or {},
        settings=settings | _read_optional(folder / "tokenizer_config.json"),
    )


def tokenizer_from_hf(files: HFTokenizerFiles, end_ids: frozenset[int]) -> Tokenizer:
    """Build the tokenizer; `end_ids` are those that config.json names."""
    ordinary, parsing = _load(files.folder), _load(files.folder)
    ordinary.encode_special_tokens = True
    bos_id = files.id_of(files.special_text("bos_token"))
    ends = {files.id_of(files.special_text("eos_token"))} | end_ids | _generation_ends(files)
    steps = list(_steps(files.decoder))
    return Tokenizer(
        ordinary=ordinary,
        parsing=parsing,
        pieces=_pieces(files, {step.get("type") for step in steps}),
        special_ids=files.special_ids,
        eos_ids=frozenset(id for id in ends if id is not None),
        bos_id=bos_id,
        adds_bos=_adds_bos(files, parsing, bos_id),
        strips_space=any(_strips(step) for step in steps),
    )


def chat_template_from_hf(files: HFTokenizerFiles) -> ChatTemplate | None:
    """chat_template.jinja if there is one, else the template in tokenizer_config.json."""
    path = files.folder / "chat_template.jinja"
    source = path.read_text("utf-8") if path.is_file() else files.settings.get("chat_template")
    if isinstance(source, list):  # several by name
        named = {item.get("name"): item.get("template") for item in source}
        source = named.get("default")
    if not isinstance(source, str):
        return None
    kinds = ("bos_token", "eos_token", "unk_token", "pad_token")
    texts = {kind: files.special_text(kind) for kind in kinds}
    return ChatTemplate(source, {kind: text for kind, text in texts.items() if text is not None})


def _load(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelError(f"{path}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_optional(path: Path) -> dict[str, Any]:
    """A JSON object that may be missing."""
    return read_json(path, dict[str, Any]) if path.is_file() else {}


def _generation_ends(files: HFTokenizerFiles) -> set[int]:
    ids = _read_optional(files.folder / "generation_config.json").get("eos_token_id", [])
    return {id for id in (ids if isinstance(ids, list) else [ids]) if isinstance(id, int)}


def _adds_bos(files: HFTokenizerFiles, tokenizer: tokenizers.Tokenizer, bos_id: int | None) -> bool:
    """As tokenizer_config.json says; if it does not, as the post-processor does."""
    stated = files.settings.get("add_bos_token")
    if isinstance(stated, bool):
        return stated
    return bos_id is not None and tokenizer.encode("").ids[:1] == [bos_id]


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The decoder's steps, sequences flattened."""
    if decoder.get("type") == "Sequence":
        for step in decoder.get("decoders", []):
            yield from _steps(step)
    elif decoder:
        yield decoder


def _strips(step: dict[str, Any]) -> bool:
    if step.get("type") == "Strip":
        return bool(step.get("content") == " " and step.get("start"))
    return step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never"


def _pieces(files: HFTokenizerFiles, step_types: set[Any]) -> list[bytes]:
    """The bytes of each id, by the rules of the decoder; ids without a token have none."""
    texts = [""] * files.n_tokens
    for text, id in files.vocabulary.items():
        texts[id] = text
    if "ByteLevel" in step_types:
        letters = byte_alphabet()
        pieces = [_byte_level_piece(text, letters) for text in texts]
    elif step_types & {"ByteFallback", "Metaspace"}:
        byte_ids = range(len(texts)) if "ByteFallback" in step_types else ()
        pieces = sentence_pieces(texts, byte_ids)
    else:
        found = ", ".join(sorted(map(str, step_types))) or "none"
        raise ModelError(
            f"{files.folder}/tokenizer.json: its decoder ({found}) is not supported "
            "(known: ByteLevel, ByteFallback, Metaspace)"
        )
    for id, text in files.added.items():
        pieces[id] = text.encode()
    return pieces


def _byte_level_piece(text: str, letters: Mapping[str, int]) -> bytes:
    if all(letter in letters for letter in text):
        return bytes(letters[letter] for letter in text)
    return text.encode()
