"""Opens thousands of damaged GGUF files: each must open, or be refused by an error that names what.

    python tests/benchmarks/gguf_fuzz.py --files 10000 --seed 1

Files are small models of both kinds of tokenizer, damaged where it hurts: numbers of the header
replaced by extreme ones, bytes flipped, stretches cut out, doubled or swapped. Whatever opens is
used as an engine would: tokenizer, chat template, every tensor dequantized. Found are crashes,
hangs, errors of another kind, errors without a field's name, and memory beyond the file's size.

A file is a function of its number alone: `--only N` opens file N by itself and shows what happens.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from enginebench.errors import BenchError
from enginebench_models.dequantizers import DEQUANTIZABLE
from enginebench_models.gguf import read_gguf
from enginebench_models.gguf_writer import write_gguf
from enginebench_models.open_gguf import open_gguf
from enginebench_models.synthetic_files import write_synthetic_gguf

EXTREMES = (0, 1, 2, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
FIELD = re.compile(
    r"metadata|tensor|magic|version|GGUF|token|merges|general\.|architecture|template|rope|"
    r"[a-z0-9]+\.[a-z_.]+|bytes at offset|n_[a-z_]+|KV heads|dimensions of a head|[a-z]+_[a-z]+"
)
ALARM_S = 10
BATCH = 500
ROOM_BYTES = 512 << 20  # of address space beyond what the process had before it opened a file


def bases(folder: Path) -> list[bytes]:
    """Whole files to begin with: byte-level BPE in two types, and SentencePiece."""
    found = []
    for kind in ("q4_1", "q8_0"):
        path = folder / f"{kind}.gguf"
        write_synthetic_gguf(f"synthetic:tiny@{kind}", path)
        found.append(path.read_bytes())
    file = read_gguf(path)
    metadata = dict(file.metadata)
    texts = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    texts += [f"▁{index}" for index in range(512 - len(texts))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (512 - 259)]
    metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": np.linspace(0, -50, 512, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    for key in ("tokenizer.ggml.merges", "tokenizer.ggml.pre"):
        metadata.pop(key, None)
    path = folder / "sentencepiece.gguf"
    write_gguf(path, metadata, file.tensors.values())
    return [*found, path.read_bytes()]


def damaged(content: bytes, dice: random.Random) -> bytes:
    """One to four injuries, most of them in the header."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        header = (
            len(data) if dice.random() < 0.1 else min(len(data), dice.choice((400, 3000, 20000)))
        )
        at = dice.randrange(max(1, header))
        injure = dice.choice((_number, _number, _flip, _flip, _cut, _drop, _double, _swap, _words))
        injure(data, at, dice)
    return bytes(data)


def _number(data: bytearray, at: int, dice: random.Random) -> None:
    form = dice.choice(("<Q", "<I", "<H", "<B"))
    value = dice.choice(EXTREMES) % (1 << 8 * struct.calcsize(form))
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)


def _flip(data: bytearray, at: int, dice: random.Random) -> None:
    if at < len(data):
        data[at] ^= 1 << dice.randrange(8)


def _cut(data: bytearray, at: int, dice: random.Random) -> None:
    if dice.random() < 0.3:
        del data[dice.randrange(len(data) + 1) :]


def _drop(data: bytearray, at: int, dice: random.Random) -> None:
    del data[at : at + dice.randint(1, 64)]


def _double(data: bytearray, at: int, dice: random.Random) -> None:
    data[at:at] = data[at : at + dice.randint(1, 64)]


def _swap(data: bytearray, at: int, dice: random.Random) -> None:
    other, size = dice.randrange(max(1, len(data))), dice.randint(1, 32)
    data[at : at + size], data[other : other + size] = (
        data[other : other + size],
        data[at : at + size],
    )


def _words(data: bytearray, at: int, dice: random.Random) -> None:
    """A known key or type gets a letter wrong, or becomes another one."""
    keys = [match.span() for match in re.finditer(rb"[a-z]+\.[a-z_.]+", data[:20000])]
    if keys:
        begin, end = dice.choice(keys)
        data[begin:end] = bytes(dice.sample(list(data[begin:end]), end - begin))


@contextmanager
def watched(size: int) -> Iterator[None]:
    """Raises TimeoutError after a while, MemoryError for more memory than the file explains."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"still busy after {ALARM_S} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, ALARM_S)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken = tracemalloc.get_traced_memory()[1] - before
    if taken > (8 << 20) + 64 * size:
        raise MemoryError(f"{taken} bytes taken for a file of {size}")


def use(path: Path) -> None:
    """What an engine does with a model before it computes."""
    model = open_gguf(path, "fuzzed")
    tokens = model.tokenizer.encode("Hello, wörld! 42\n")
    model.tokenizer.decode(tokens, skip_special=False)
    if model.chat_template is not None:
        model.chat_template.render([{"role": "user", "content": "Hi"}])
    for tensor in model.weights.values():
        if tensor.type in DEQUANTIZABLE:
            tensor.dequantize()


def verdict(path: Path, size: int) -> str:
    """ "opened", "refused", or what is wrong."""
    try:
        with watched(size):
            use(path)
    except BenchError as error:
        text = str(error).replace(str(path), "")
        return "refused" if FIELD.search(text) else f"names no field: {text}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        return f"{type(error).__name__}: {error}"[:300]
    return "opened"


def work(seed: int, first: int, end: int, folder: Path) -> None:
    """Verdicts of files first..end, one JSON line each, announced before the file is opened."""
    wholes = bases(folder)
    use_whole = folder / "whole.gguf"
    for whole in wholes:
        use_whole.write_bytes(whole)
        use(use_whole)  # what is imported or made only once belongs to no damaged file
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM_BYTES, taken + ROOM_BYTES))
    tracemalloc.start()
    for number in range(first, end):
        dice = random.Random(f"{seed}/{number}")
        content = damaged(dice.choice(wholes), dice)
        path = folder / "damaged.gguf"
        path.write_bytes(content)
        print(json.dumps([number]), flush=True)
        print(json.dumps([number, verdict(path, len(content))]), flush=True)


def run_batch(seed: int, first: int, end: int) -> list[tuple[int, str]]:
    """In a process of its own, which a crash or a hang takes down alone."""
    command = [sys.executable, __file__, "--seed", str(seed), "--span", f"{first}:{end}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ALARM_S + 2 * (end - first)
        )
        output, code, errors = done.stdout, str(done.returncode), done.stderr[-500:]
    except subprocess.TimeoutExpired as error:
        output, code, errors = (error.stdout or b"").decode(), "hangs", ""
    lines = [json.loads(line) for line in output.splitlines()]
    found = [(line[0], line[1]) for line in lines if len(line) == 2]
    if len(found) < end - first:
        number = lines[-1][0] if lines else first
        found.append((number, f"the process ended ({code}): {errors}"))
        if number + 1 < end:
            found += run_batch(seed, number + 1, end)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="open this file alone")
    parser.add_argument("--span", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.span or chosen.only is not None:
        first, end = map(int, (chosen.span or f"{chosen.only}:{chosen.only + 1}").split(":"))
        with tempfile.TemporaryDirectory() as folder:
            work(chosen.seed, first, end, Path(folder))
        return 0
    counts: Counter[str] = Counter()
    for first in range(0, chosen.files, BATCH):
        for number, found in run_batch(chosen.seed, first, min(chosen.files, first + BATCH)):
            is_fine = found in ("opened", "refused")
            counts[found if is_fine else "WRONG"] += 1
            if not is_fine:
                print(f"file {number}: {found}", flush=True)
    print(f"{sum(counts.values())} files: " + ", ".join(f"{n} {k}" for k, n in counts.items()))
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
