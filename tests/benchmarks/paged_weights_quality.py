"""What fewer bits cost in quality and save in memory: perplexity of a text under each format.

    PYTHONPATH=engines:harness python3 tests/benchmarks/paged_weights_quality.py \
        --model smollm2-135m --text docs/measuring.md --tokens 2048

Runs the engine itself, on the CPU or the first GPU, and takes the logprobs that it gives the text's
tokens. Prints a Markdown table: perplexity, how far logprobs move in the mean from those of the
first row, and what matrices and the KV cache take.
"""

import argparse
from pathlib import Path

import torch

from enginebench_models import Model, open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.cache import block_bytes
from enginebench_paged.engine import PagedEngine

FORMATS = {
    "as given": {},
    "`kv_cache_dtype=fp8`": {"kv_cache_dtype": "fp8"},
    "`quantization=int8`": {"quantization": "int8"},
    "`quantization=fp8`": {"quantization": "fp8"},
    "`quantization=int4`": {"quantization": "int4"},
    "`quantization=int4`, `quantization_group=32`": {
        "quantization": "int4",
        "quantization_group": 32,
    },
    "`dtype=bf16`": {"dtype": "bf16"},
    "`quantization=int4`, `quantization_zeros=no`": {
        "quantization": "int4",
        "quantization_zeros": False,
    },
    "`quantization=int8`, `kv_cache_dtype=fp8`": {"quantization": "int8", "kv_cache_dtype": "fp8"},
}


def logprobs(engine: PagedEngine, texts: list[tuple[int, ...]]) -> torch.Tensor:
    greedy = SamplingParams(temperature=0.0)
    found: list[float] = []
    for tokens in texts:
        engine.add(GenerationRequest("text", tokens, 1, greedy, prompt_logprobs=0))
        while engine.has_work():
            found += [one.logprob for out in engine.step() for one in out.prompt_logprobs]
    return torch.tensor(found, dtype=torch.float64)


def row(
    model: Model, texts: list[tuple[int, ...]], options: dict, exact: torch.Tensor | None
) -> tuple[torch.Tensor, str]:
    engine = PagedEngine(model, {"dtype": "f32", "kv_memory_gb": 0.2, **options})
    found, weights = logprobs(engine, texts), engine._runner.weights
    size, bits = weights.size_and_bits
    per_token = block_bytes(engine.config, model.config) // engine.config.block_size
    moved = 0.0 if exact is None else float((found - exact).abs().mean())
    engine.close()
    return found, (
        f"{float(torch.exp(-found.mean())):.3f} | {moved:.4f} | {bits / 8e6:.1f}"
        f" ({bits / size:.2f} bits each) | {per_token:,}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", type=Path, default=Path("docs/measuring.md"))
    parser.add_argument("--tokens", type=int, default=2048, help="of the text, from its beginning")
    parser.add_argument("--chunk", type=int, default=512, help="tokens scored together")
    options = parser.parse_args()
    model = open_model(options.model)
    ids = tuple(model.tokenizer.encode(options.text.read_text()))[: options.tokens]
    texts = [ids[at : at + options.chunk] for at in range(0, len(ids), options.chunk)]
    print("| | perplexity | logprobs move by | matrices, MB | KV bytes a token |")
    print("| --- | --- | --- | --- | --- |")
    exact = None
    for name, given in FORMATS.items():
        found, text = row(model, texts, given, exact)
        exact = found if exact is None else exact
        print(f"| {name} | {text} |", flush=True)


if __name__ == "__main__":
    main()
