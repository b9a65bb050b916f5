"""Executes plans: owns the device, the weights, the KV cache and the state of every slot.

`launch` only enqueues: on a GPU it returns long before the step is done, and the next plan can be
launched on top of it, because sampled ids stay on the device and feed the next step from there.
`Launched.wait` fetches them for the host. Everything runs on one stream, so that what a step reads
was written by the steps before it.

Knows plans but no scheduler: nothing here decides who computes what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from enginebench_models import Model
from enginebench_paged import loader
from enginebench_paged.cache import KVCache, cpu_block_count
from enginebench_paged.config import PagedConfig
from enginebench_paged.constraints import constrained
from enginebench_paged.extras import Extras
from enginebench_paged.graphs import StepGraphs
from enginebench_paged.inputs import Sizes, StepInputs, device_views, host_views
from enginebench_paged.kernels.configs import Techniques, switch
from enginebench_paged.kv_scales import calibrated
from enginebench_paged.model import Transformer, rotary_table
from enginebench_paged.parallel.ranks import ALONE, Ranks
from enginebench_paged.profile import gpu_block_count
from enginebench_paged.prompt_reader import PromptReader, every_row, reads_prompt
from enginebench_paged.sampler import Sampler
from enginebench_paged.scores import Logprobs, Scores
from enginebench_paged.staging import fill, sizes_of
from enginebench_paged.step import StepPlan
from enginebench_paged.tables import BlockTables
from enginebench_paged.transfer import Download

__all__ = ["Launched", "Runner"]


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way and its sampled ids, those of each piece of the plan, in order."""

    plan: StepPlan
    ids: Download | None
    scores: Scores

    def wait(self) -> list[int]:
        """The ids, as soon as the device has them."""
        return [] if self.ids is None else self.ids.wait()


class Runner:
    """One device, ready to run steps once constructed. `model` is this rank's part of one."""

    def __init__(self, model: Model, config: PagedConfig, ranks: Ranks = ALONE) -> None:
        self.config, shape = config, model.config
        device = config.device
        if device.type == "cuda":
            switch(
                Techniques(
                    split_kv=config.split_kv,
                    skinny_products=config.skinny_products,
                    early_launch=config.early_launch,
                )
            )
        self.weights = loader.load(model, device, config.dtype, config.quantization)
        rotary = rotary_table(shape, config.context_length, device)
        self._model = Transformer(
            shape,
            self.weights,
            rotary,
            fused=config.fused_ops,
            deterministic=config.deterministic,
            ranks=ranks,
        )
        self._tables = BlockTables(config.max_batch, config.max_blocks_per_sequence, device)
        self._reader = PromptReader(self._model.head, device)
        self._sampler = Sampler(config.max_batch, shape.vocab_size, device)
        self._last_token = torch.zeros(config.max_batch + 1, dtype=torch.int64, device=device)
        if device.type == "cuda":
            self.cache = KVCache.allocate(1, config, shape)  # the profile writes nothing
            blocks = gpu_block_count(config, shape, self._forward)
        else:
            blocks = cpu_block_count(config, shape, sharing=ranks.here)
        scales = calibrated(self._model, config) if config.kv_dtype.itemsize == 1 else None
        self.cache = KVCache.allocate(ranks.least(blocks), config, shape, scales=scales)
        self._graphs = None
        if config.cuda_graphs:
            self._graphs = StepGraphs(config, self._forward)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Enqueue a step. The sequences' tokens and blocks are read now, not later."""
        for sequence in plan.admitted:
            assert sequence.slot is not None
            self._tables.reset(sequence.slot)
        if plan.admitted:
            self._sampler.admit(plan.admitted)
        self._tables.update(plan.pieces)
        ids, scores = self._execute(plan)
        return Launched(plan, None if ids is None else Download(ids), scores)

    def _execute(self, plan: StepPlan) -> tuple[Tensor | None, Scores]:
        sizes = sizes_of(plan, self.config.block_size)
        asking = any(piece.sequence.asks for piece in plan.pieces)
        if asking and any(reads_prompt(piece) for piece in plan.pieces):
            return self._execute_reading(plan, sizes)
        extras = self._extras(plan, asking)
        block_size = self.config.block_size
        graph = self._graphs.find(sizes, block_size) if self._graphs is not None else None
        if self._graphs is not None and graph is not None:
            x, logits, ids = self._graphs.run(graph, plan, sizes, self._tables.host, block_size)
        else:
            x = self._stage(plan, sizes)
            logits, ids = self._forward(x, draw=not extras.redraw)
        if not sizes.samples:
            return None, Scores()
        if extras.redraw:  # a graph has drawn already, from bare logits: draw anew
            ids = self._draw_with(extras, logits, x)
        return ids[: sizes.samples], self._scores(extras, logits, ids)

    def _execute_reading(self, plan: StepPlan, sizes: Sizes) -> tuple[Tensor | None, Scores]:
        """A step in which prompts are scored or embedded: hidden states of all its tokens."""
        x, extras = self._stage(plan, sizes), self._extras(plan, asking=True)
        token_ids = self._complete(x) if self.config.schedule_ahead else x.token_ids
        hidden = self._model.hidden(token_ids, every_row(x), self._tables.device, self.cache)
        found = self._reader.read(plan, hidden)
        if not sizes.samples:
            return None, found
        logits = self._model.head(hidden[x.sample_rows])
        ids = self._draw_with(extras, logits, x)
        return ids, replace(found, drawn=self._scores(extras, logits, ids).drawn)

    def _extras(self, plan: StepPlan, asking: bool) -> Extras:
        penalized = self._sampler.wants_penalties([piece.slot for piece in plan.pieces])
        pieces = [p for p in plan.pieces for _ in range(p.rows)] if asking else ()
        return Extras.of(pieces, penalized=penalized)

    def _draw_with(self, extras: Extras, logits: Tensor, x: StepInputs[Tensor]) -> Tensor:
        constrains = extras.constrained
        values = constrained(logits, extras.pieces) if constrains else logits
        return self._draw(values, x, penalized=extras.penalized, plain=constrains)

    def _scores(self, extras: Extras, logits: Tensor, ids: Tensor) -> Scores:
        if extras.logprobs is None:
            return Scores()
        return Scores(drawn=Logprobs(logits, ids[: len(logits)], extras.logprobs))

    def _stage(self, plan: StepPlan, sizes: Sizes) -> StepInputs[Tensor]:
        pinned = self.config.device.type == "cuda"
        packed = torch.empty(sizes.words, dtype=torch.int64, pin_memory=pinned)
        fill(host_views(packed.numpy(), sizes), plan, self._tables.host, self.config.block_size)
        return device_views(packed.to(self.config.device, non_blocking=True), sizes)

    def _forward(self, x: StepInputs[Tensor], draw: bool = True) -> tuple[Tensor, Tensor]:
        """Logits and sampled ids of a step, all on the device; this is what a graph captures."""
        token_ids = self._complete(x) if self.config.schedule_ahead else x.token_ids
        logits = self._model.logits(token_ids, x, self._tables.device, self.cache)
        ids = self._draw(logits, x) if draw and x.sizes.samples else x.sample_slots
        return logits, ids

    def _complete(self, x: StepInputs[Tensor]) -> Tensor:
        """Put in the ids that the host did not know: of decodes, whose tokens and sequences lie
        in the same, leading rows.
        """
        rows = min(x.sizes.tokens, x.sizes.sequences)
        known = x.token_ids[:rows]
        sampled = self._last_token[x.sequence_slots[:rows]]
        torch.where(known < 0, sampled, known, out=known)
        return x.token_ids

    def _draw(
        self,
        logits: Tensor,
        x: StepInputs[Tensor],
        *,
        penalized: bool = False,
        plain: bool = False,
    ) -> Tensor:
        draw = self._sampler.sample_penalized if penalized else self._sampler.sample
        ids = draw(logits, x.sample_slots, x.sample_positions, plain=plain)
        if self.config.schedule_ahead:
            self._last_token[x.sample_slots] = ids
        return ids

    def forget(self, request_id: str) -> None:
        """The request is gone, done or not."""
        self._reader.forget(request_id)

    def close(self) -> None:
        """Drop what holds memory."""
        self._graphs = None
        del self.cache, self._model, self._reader, self.weights
        if self.config.device.type == "cuda":
            torch.cuda.empty_cache()
