"""What must be known about a decoder-only transformer to compute it, whatever file says it.

Architectures differ in facts (biases, norms, windows, caps, experts), so an engine asks for the
facts and never for the architecture's name. Where layers of one model differ, `layers` says how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models.rope_scaling import RopeScaling

__all__ = ["Activation", "Experts", "LayerAttention", "ModelConfig", "RopeScaling"]

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Experts:
    """A layer's feed-forward parts, of which a router chooses `used` for each token.

    `size` is the inner width of each. `normalized`: the weights of the chosen ones are scaled to
    sum to 1. `shared_size` is that of an expert that every token passes, under a gate of its own.
    """

    count: int
    used: int
    size: int
    normalized: bool
    shared_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.used <= self.count:
            raise ModelError(f"a token uses {self.used} of {self.count} experts: impossible")
        if self.size <= 0 or (self.shared_size is not None and self.shared_size <= 0):
            raise ModelError(f"experts are {self.size} wide, the shared one {self.shared_size}")


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """What distinguishes the attention of one layer: how far it sees, and its rotary angles.

    `window` None: every token sees all before it; else itself and the window - 1 before it.
    """

    window: int | None
    rope_theta: float
    rope_scaling: RopeScaling | None = None

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0 if self.rope_scaling is None else self.rope_scaling.magnitude

    def frequencies(self, head_dim: int, context_length: int) -> NDArray[np.float64]:
        """Rotary frequencies with scaling applied, (head_dim / 2,), in radians per position."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        frequencies = self.rope_theta**-exponents
        if self.rope_scaling is None:
            return frequencies
        return self.rope_scaling.apply(frequencies, self.rope_theta, context_length)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model.

    `rope_pairs` is how the rows of q and k lie in this weight source: "adjacent" rotates rows
    (0, 1), (2, 3) ... of a head together (GGUF files of llama models), "halves" rotates row i with
    row i + head_dim / 2 (everything else).

    `sliding_window` narrows all layers, or those that `sliding_layers` marks; these have a rotary
    base of their own, without scaling, where `sliding_rope_theta` gives one. `post_norms`: what
    attention and feed-forward yield is normed before it joins the residual stream. Soft caps are
    cap * tanh(x / cap). `attention_scale` None is head_dim ** -0.5. With `experts`,
    `intermediate_size` says nothing.
    """

    architecture: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    rope_pairs: Literal["adjacent", "halves"] = "halves"
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] | None = None
    sliding_rope_theta: float | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None
    embedding_scale: float | None = None
    activation: Activation = "silu"
    post_norms: bool = False
    experts: Experts | None = None

    def __post_init__(self) -> None:
        for field in ("n_layers", "hidden_size", "intermediate_size", "n_heads", "n_kv_heads"):
            self._check_positive(field)
        for field in ("head_dim", "vocab_size", "context_length", "rope_theta"):
            self._check_positive(field)
        for field in ("sliding_window", "attention_scale", "attention_softcap", "final_softcap"):
            if getattr(self, field) is not None:
                self._check_positive(field)
        if self.n_heads % self.n_kv_heads:
            raise ModelError(f"{self.n_heads} heads cannot share {self.n_kv_heads} KV heads evenly")
        if self.head_dim % 2:
            raise ModelError(f"head_dim is {self.head_dim}; rotary embedding needs an even number")
        if self.sliding_layers is not None and len(self.sliding_layers) != self.n_layers:
            raise ModelError(f"{len(self.sliding_layers)} kinds of {self.n_layers} layers are told")

    def _check_positive(self, field: str) -> None:
        value = getattr(self, field)
        if not 0 < value < math.inf:
            raise ModelError(f"the model's {field} is {value}; it must be positive")

    @property
    def beyond_llama(self) -> tuple[str, ...]:
        """What it has that a plain llama model has not, in words: for those who compute no more."""
        layers = self.layers
        facts = {
            "experts": self.experts is not None,
            "soft caps": self.attention_softcap is not None or self.final_softcap is not None,
            "layers of several kinds": len(set(layers)) > 1,
            "norms after its parts": self.post_norms,
            "scaled embeddings": self.embedding_scale is not None,
            "scores scaled by another number": self.attention_scale is not None,
            f"the activation {self.activation}": self.activation != "silu",
            "RoPE scaling by yarn or longrope": self.rope_scaling is not None
            and self.rope_scaling.kind in ("yarn", "longrope"),
        }
        return tuple(fact for fact, is_there in facts.items() if is_there)

    def refuse_beyond_llama(self, who: str, way_out: str) -> None:
        """ModelError unless a plain llama model is all it is."""
        if self.beyond_llama:
            raise ModelError(
                f"{who} does not compute {self.architecture} models, which have "
                f"{', '.join(self.beyond_llama)}; {way_out}"
            )

    @property
    def layers(self) -> tuple[LayerAttention, ...]:
        """The attention of each layer; equal layers are equal objects."""
        whole = LayerAttention(None, self.rope_theta, self.rope_scaling)
        if self.sliding_window is None:
            return (whole,) * self.n_layers
        narrow = LayerAttention(self.sliding_window, self.rope_theta, self.rope_scaling)
        if self.sliding_rope_theta is not None:
            narrow = LayerAttention(self.sliding_window, self.sliding_rope_theta)
        marks = self.sliding_layers or (True,) * self.n_layers
        return tuple(narrow if is_narrow else whole for is_narrow in marks)

    @property
    def scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def inverse_frequencies(self, context_length: int | None = None) -> NDArray[np.float64]:
        """Rotary frequencies of the layers that see everything, for a run of `context_length`."""
        whole = LayerAttention(None, self.rope_theta, self.rope_scaling)
        return whole.frequencies(self.head_dim, context_length or self.context_length)
