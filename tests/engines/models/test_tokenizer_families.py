"""Tokenizers built as the families of models publish them, taken from a folder to GGUF and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from enginebench_models.tokenizer_export import tokenizer_metadata
from enginebench_models.tokenizer_gguf import tokenizer_from_gguf
from enginebench_models.tokenizer_hf import read_tokenizer_files, tokenizer_from_hf

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
CORPUS = ["the quick brown fox jumps over the lazy dog", "hello   there! naïve café 12345"]
AWKWARD = [
    "the fox  hello",
    "  lead",
    "é 你好 👩‍👩‍👧\n\n\tcode(x)",
    "<end_of_turn>the",
    "\x00\x07 ١٢ 12 \ufffd",
]


@pytest.fixture
def gemma_folder(tmp_path: Path) -> Path:
    """Merges with bytes as a last resort; spaces become marks, and no space is put in front."""
    saved = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    saved.normalizer = normalizers.Replace(" ", "▁")
    saved.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL + all_bytes, show_progress=False
    )
    saved.train_from_iterator(CORPUS * 3, trainer)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    saved.decoder = decoders.Sequence(steps)
    content = json.loads(saved.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in SPECIAL]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    settings = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": True}))
    return tmp_path


@pytest.mark.parametrize("text", AWKWARD)
def test_gemma_keeps_its_spaces(gemma_folder: Path, text: str) -> None:
    files = read_tokenizer_files(gemma_folder)
    original = tokenizer_from_hf(files, frozenset({1}))
    library = Tokenizer.from_file(str(gemma_folder / "tokenizer.json"))
    written = tokenizer_from_gguf(
        tokenizer_metadata(files, original, None, files.n_tokens), "written"
    )
    expected = [2, *library.encode(text, add_special_tokens=False).ids]
    assert original.encode(text, parse_special=True) == expected
    assert written.encode(text, parse_special=True) == expected
    assert written.decode(written.encode(text)) == text
