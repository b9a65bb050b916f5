"""An open model: config, tokenizer, chat template and weights, and the check that they fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from enginebench.errors import ModelError
from enginebench.types import ModelInfo
from enginebench_models.chat_template import ChatTemplate
from enginebench_models.config import ModelConfig
from enginebench_models.tensor_shapes import expected_shapes
from enginebench_models.tokenizer import Tokenizer
from enginebench_models.weights import Weights

__all__ = ["Model", "check_weights"]

# In files of some converters, and computed anew by every engine.
_DERIVED = (
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    "rotary_emb.inv_freq",
)


@dataclass(frozen=True)
class Model:
    """A model whose headers were read. The tokenizer is built when first asked for."""

    info: ModelInfo
    config: ModelConfig
    weights: Weights
    chat_template: ChatTemplate | None
    make_tokenizer: Callable[[], Tokenizer] = field(repr=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self.make_tokenizer()


def check_weights(
    where: str, config: ModelConfig, weights: Weights, spell: Callable[[str], str] = str
) -> None:
    """ModelError unless `weights` holds exactly the tensors that a model of this shape has.

    `spell` turns a canonical name into the one that the user's file has.
    """
    if config.n_layers > len(weights):
        raise ModelError(f"{where}: says {config.n_layers} layers, but has {len(weights)} tensors")
    expected = expected_shapes(config)
    missing = [spell(name) for name in expected if name not in weights]
    if missing:
        raise ModelError(f"{where}: {len(missing)} tensors are missing: {_some(missing)}")
    strange = [n for n in weights if n not in expected and not n.endswith(_DERIVED)]
    if strange:
        raise ModelError(
            f"{where}: {len(strange)} tensors have no place in a {config.architecture} model "
            f"as it is computed here: {_some(strange)}"
        )
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise ModelError(
                f"{where}: tensor {spell(name)!r} is {weights[name].shape}, not {shape}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
