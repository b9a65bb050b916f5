"""Matrix products of packed weights with a tile of activations: `matmul_tile` and its kernel.

One group of rows times `tokens` activations; the loop over the columns is emitted whole, with one
accumulator (or several) for each token in registers. `tokens` 1 is the decode kernel.
"""

from __future__ import annotations

from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.activations import BLOCK_BYTES
from enginebench_quant.kernels.cache_layout import CACHE_FORMATS
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.formats import FORMATS, Format
from enginebench_quant.kernels.memory import KERNEL, peek
from enginebench_quant.kernels.simd import I64, Simd

__all__ = ["build_matmul", "matmul_tile"]


_ALL_FORMATS: dict[str, Format] = {**FORMATS, **CACHE_FORMATS}


def _chains(tokens: int) -> int:
    """Accumulators of each token: enough independent sums to hide the latency of an FMA.

    Below 8 tokens they are as many whatever the number: so sums round alike, and what is computed
    for a few tokens together is what each would give by itself.
    """
    return 1 if tokens >= 8 else 2


@intrinsic(prefer_literal=True)
def matmul_tile(
    typingctx, kind, level, tokens, weights, steps, acts, acts_stride, out, out_stride, accumulate
):
    """out[t][row] (+)= sum over columns of weights[row] * acts[t], for one group of rows.

    `acts`: int8 formats read (step, token) blocks, float formats rows of `acts_stride` bytes.
    `out`: `tokens` rows of floats, `out_stride` bytes apart; added to if `accumulate` is not 0.
    """
    if not all(isinstance(x, types.Literal) for x in (kind, level, tokens)):
        return None
    form, count = _ALL_FORMATS[kind.literal_value], tokens.literal_value

    def activations(v, index, token, acts, acts_stride):
        """Where those of part `index` lie."""
        if form.activations == "int8":
            base = v.b.add(acts, v.b.mul(index, v.const(count * BLOCK_BYTES)))
            return v.at(base, token * BLOCK_BYTES)
        row = v.b.add(acts, v.b.mul(acts_stride, v.const(token)))
        return v.b.add(row, v.b.mul(index, v.const(4 * form.block // form.parts)))

    def codegen(context, builder, sig, args):
        _, _, _, weights, steps, acts, acts_stride, out, out_stride, accumulate = args
        v = Simd(builder, level.literal_value)
        zero = ir.Constant(v.f32, [0.0] * v.lanes)
        sums = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(_chains(count))]
            for _ in range(count)
        ]
        step_bytes = v.const(v.lanes * form.block_bytes)
        step_parts = v.const(form.parts)
        with cgutils.for_range(builder, steps, intp=I64) as loop:
            step = builder.add(weights, builder.mul(loop.index, step_bytes))
            factors = form.begin(v, step)
            with cgutils.for_range(builder, step_parts, intp=I64) as inner:
                part = form.load(v, step, inner.index, factors)
                index = builder.add(builder.mul(loop.index, step_parts), inner.index)
                for token in range(count):
                    source = activations(v, index, token, acts, acts_stride)
                    totals = [builder.load(s) for s in sums[token]]
                    totals = form.multiply(v, part, source, totals)
                    for slot, total in zip(sums[token], totals, strict=True):
                        builder.store(total, slot)
        keep = builder.icmp_signed("!=", accumulate, v.const(0))
        for token in range(count):
            total = builder.load(sums[token][0])
            for slot in sums[token][1:]:
                total = builder.fadd(total, builder.load(slot))
            target = builder.add(out, builder.mul(out_stride, v.const(token)))
            with builder.if_else(keep) as (then, otherwise):
                with then:
                    v.store(builder.fadd(total, v.load(target, v.f32)), target)
                with otherwise:
                    v.store(total, target)
        return context.get_dummy_value()

    return types.void(kind, level, tokens, *[types.int64] * 7), codegen


def build_matmul(kind: str, level: str, tokens: int):
    """Compile the kernel for one tensor type: begin and end count groups of rows."""
    group_out_bytes = 4 * LEVELS[level].lanes

    @cfunc(KERNEL, error_model="numpy")
    def matmul(args, begin, end, thread):
        weights, group_bytes, steps = peek(args, 0), peek(args, 1), peek(args, 2)
        acts, acts_stride, tile_bytes = peek(args, 3), peek(args, 4), peek(args, 5)
        out, out_stride, accumulate = peek(args, 6), peek(args, 7), peek(args, 8)
        tiles = (peek(peek(args, 9), 0) + tokens - 1) // tokens
        for group in range(begin, end):
            for tile in range(tiles):
                matmul_tile(
                    kind,
                    level,
                    tokens,
                    weights + group * group_bytes,
                    steps,
                    acts + tile * tile_bytes,
                    acts_stride,
                    out + tile * tokens * out_stride + group * group_out_bytes,
                    out_stride,
                    accumulate,
                )

    return matmul
