"""How byte-level BPE vocabularies split a text into words, by the names that GGUF files give them.

The patterns are facts about the published tokenizers (their tokenizer.json files).
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

__all__ = ["BPE_RULES", "BPERules", "byte_alphabet"]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}"


@dataclass(frozen=True, slots=True)
class BPERules:
    """Patterns applied one after the other, each match a word of its own.

    `whole_words_first`: a word that is a token is taken without asking the merges. `nfc`: Unicode
    is composed before anything else. `adds_bos` holds where the file does not say.
    """

    patterns: tuple[str, ...]
    whole_words_first: bool = False
    nfc: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """Split by the patterns, then write bytes as the letters that the vocabulary uses."""
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns
        ]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None


_GPT2_RULES = BPERules((_GPT2,))
_DIGITS_SINGLY = BPERules((r"\p{N}", _GPT2))
_LLAMA3_RULES = BPERules((_LLAMA3,), whole_words_first=True, adds_bos=True)
_QWEN2_RULES = BPERules((_QWEN2,), nfc=True)

BPE_RULES: dict[str, BPERules] = {
    "default": BPERules((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": _GPT2_RULES,
    "smollm": _DIGITS_SINGLY,
    "starcoder": _DIGITS_SINGLY,
    "llama-bpe": _LLAMA3_RULES,
    "llama3": _LLAMA3_RULES,
    "llama-v3": _LLAMA3_RULES,
    "qwen2": _QWEN2_RULES,
    "deepseek-r1-qwen": _QWEN2_RULES,
}


def byte_alphabet() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies, as letter -> byte.

    Printable Latin-1 stands for itself; the other 68 bytes follow in order from U+0100 on (GPT-2).
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in itself]
    alphabet = {chr(byte): byte for byte in itself}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}
