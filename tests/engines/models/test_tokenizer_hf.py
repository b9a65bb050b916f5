"""Tokenizers from tokenizer.json and the files beside it, against the `tokenizers` library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from enginebench.errors import ModelError
from enginebench_models.tokenizer_hf import (
    chat_template_from_hf,
    read_tokenizer_files,
    tokenizer_from_hf,
)

WORD_PIECE = {"type": "WordPiece", "prefix": "##", "cleanup": True}
SPECIAL = ["<s>", "</s>", "<|end|>"]


def byte_level() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: id for id, letter in enumerate([*letters, "he", "ll", "hell", "Ġw"])}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    pieces = ["<unk>", *SPECIAL[:2], *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    model = models.BPE(
        vocabulary, [("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, byte_fallback], ids=lambda make: make.__name__)
def library(request):
    tokenizer = request.param()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    library.save(str(path / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    ends = {"eos_token_id": [library.token_to_id("<|end|>")]}
    (path / "generation_config.json").write_text(json.dumps(ends))
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return tokenizer_from_hf(read_tokenizer_files(folder), frozenset())


def test_special_tokens(ours, library):
    id_of = library.token_to_id
    assert ours.bos_id == id_of("<s>")
    assert ours.adds_bos  # by the post-processor
    assert ours.eos_ids == {id_of("</s>"), id_of("<|end|>")}
    assert ours.special_ids == {id_of(text) for text in SPECIAL}
    assert ours.encode("a")[0] == ours.bos_id
    assert ours.encode("a", add_bos=False) == library.encode("a", add_special_tokens=False).ids


def test_special_tokens_are_parsed_on_demand_only(ours, library):
    text = "a</s>b<tool>"
    parsed = ours.encode(text, add_bos=False, parse_special=True)
    assert parsed == library.encode(text, add_special_tokens=False).ids
    assert library.token_to_id("</s>") in parsed
    plain = ours.encode(text, add_bos=False)
    assert not ours.special_ids.intersection(plain)
    assert library.token_to_id("<tool>") in plain
    assert ours.decode(plain) == text


@given(text=st.text())
def test_any_text_decodes_as_the_library_decodes_it(ours, library, text):
    ids = ours.encode(text, add_bos=False)
    assert ours.decode(ids) == library.decode(ids) == text


@given(data=st.data())
def test_any_ids_decode_as_the_library_decodes_them(ours, library, data):
    id = st.integers(0, library.get_vocab_size() - 1)
    ids = data.draw(st.lists(id, max_size=8))
    if isinstance(library.decoder, decoders.ByteLevel):
        assert ours.decode(ids) == library.decode(ids)
    stream = ours.stream()
    assert "".join(stream.push([id]) for id in ids) + stream.finish() == ours.decode(ids)


def test_add_bos_token_of_the_settings_wins(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": False}))
    assert not tokenizer_from_hf(read_tokenizer_files(tmp_path), frozenset({7})).adds_bos


def test_special_tokens_map_stands_in(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>"}))
    tokenizer = tokenizer_from_hf(read_tokenizer_files(tmp_path), frozenset({7}))
    assert tokenizer.piece(tokenizer.bos_id) == "<s>"
    assert tokenizer.eos_ids == {7}


@pytest.mark.parametrize(
    ("settings", "file", "expected"),
    [
        ({"chat_template": "A"}, None, "A"),
        ({"chat_template": "A"}, "B", "B"),
        ({"chat_template": [{"name": "default", "template": "C"}]}, None, "C"),
        ({}, None, None),
    ],
)
def test_where_the_chat_template_is(folder, tmp_path, settings, file, expected):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<s>"}))
    if file is not None:
        (tmp_path / "chat_template.jinja").write_text(file)
    template = chat_template_from_hf(read_tokenizer_files(tmp_path))
    assert (template.source if template else None) == expected
    if template:
        assert template.special_tokens == {"bos_token": "<s>"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].pop("vocab"), "missing required field `vocab`"),
        (lambda content: content["model"].update(vocab={}), "vocabulary is empty"),
        (lambda content: content["model"].update(vocab={"a": -1}), "has negative ids"),
        (lambda content: content["model"].update(vocab={"a": 10**12}), "token id 1000000000000"),
        (lambda content: content.update(decoder=WORD_PIECE), r"decoder \(WordPiece\)"),
        (lambda content: content.update(decoder=None), r"decoder \(none\) is not supported"),
        (lambda content: content["model"].update(merges=[["no", "pair"]]), r"tokenizer.json: "),
    ],
)
@pytest.mark.parametrize("library", [byte_level], indirect=True)
def test_bad_tokenizer_files(folder, tmp_path, change, message):
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        tokenizer_from_hf(read_tokenizer_files(tmp_path), frozenset())
