"""Where the logits of `bench perplexity` come from: this engine's kernels, or plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_quant.kernels.reference import Shape, forward

__all__ = ["EngineScorer", "ExactScorer"]

Logits = NDArray[np.float32]


class ExactScorer:
    """float32 over dequantized weights, in numpy: what the weights are worth, no kernel's rounding.

    Takes every type, and 4 bytes of memory for each weight.
    """

    def __init__(self, model: Model, activations: Callable[[Logits], Logits] = lambda x: x) -> None:
        """`activations` sees what goes into each product, see `reference.forward`."""
        config = model.config
        self._activations = activations
        config.refuse_beyond_llama("--engine exact", "leave it out, or take --engine quant")
        if config.sliding_window is not None:
            raise ModelError(
                f"{model.info.name}: sliding windows are not computed by --engine exact"
            )
        self._weights = {name: tensor.dequantize() for name, tensor in model.weights.items()}
        self._shape = Shape(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            eps=config.rms_norm_eps,
            adjacent_pairs=config.rope_pairs == "adjacent",
            frequencies=config.inverse_frequencies(),
        )

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """See `perplexity.Scorer`."""
        yield from forward(self._shape, self._weights, np.array(tokens), self._activations)[first:]


class EngineScorer:
    """The engine itself: weights as they are in the file, activations rounded as its kernels do."""

    def __init__(
        self,
        model: Model,
        *,
        context: int,
        threads: int | None,
        log: Callable[[str], None],
        kv_type: str = "f16",
    ) -> None:
        from enginebench_quant.load import load_model
        from enginebench_quant.model import MAX_CHUNK_TOKENS
        from enginebench_quant.options import QuantOptions

        chosen: dict[str, OptionValue] = {"context": context, "kv_type": kv_type}
        if threads is not None:
            chosen["threads"] = threads
        options = QuantOptions.resolve(chosen, model.config)
        self._runner = load_model(model, options, log=log)
        self._chunk = MAX_CHUNK_TOKENS

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """See `perplexity.Scorer`."""
        for start in range(0, first, self._chunk):
            end = min(first, start + self._chunk)
            self._runner.forward(tokens[start:end], start, want_logits=False)
        for start in range(first, len(tokens), self._chunk):
            yield from self._runner.forward_each(tokens[start : start + self._chunk], start)

    def close(self) -> None:
        """Stop its threads."""
        self._runner.close()
