"""A byte-level vocabulary of any size for synthetic models, as GGUF metadata.

Three special tokens, the 256 bytes, then made-up words (" a", " b" ... " aa" ...): every word is
one token, so text made of random tokens encodes back to the same tokens.
"""

from __future__ import annotations

import numpy as np

from enginebench_models.gguf import GGUFValue
from enginebench_models.pretokenizers import byte_alphabet

__all__ = ["vocabulary_metadata"]

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary_metadata(size: int) -> dict[str, GGUFValue]:
    """`tokenizer.*` keys of a vocabulary of `size` tokens."""
    letters = sorted(byte_alphabet().items(), key=lambda item: item[1])
    fixed = [*_SPECIAL, *(letter for letter, _ in letters)]
    texts = fixed + [f"Ġ{_word(index)}" for index in range(size - len(fixed))]
    kinds = np.ones(size, np.int32)
    kinds[: len(_SPECIAL)] = 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": _CHATML,
    }


def _word(index: int) -> str:
    """0 is a, 25 is z, 26 is aa ... : all words of letters, shortest first."""
    word = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        word = chr(ord("a") + letter) + word
    return word
