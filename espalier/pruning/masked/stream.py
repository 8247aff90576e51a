"""The loop: read a layer, watch its inputs, prune it, pass the tokens on, write it, free it."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Masked, MaskedLayer
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.adapter import Architecture, dtype_name
from espalier.models.checkpoint.companions import copy_companions, copy_config
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import CheckpointWriter, Content
from espalier.models.device import require_device
from espalier.models.products import choose_products
from espalier.models.zeros import count_zeros
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.masked.activations import LayerPasses, positions_for
from espalier.pruning.masked.method import LayerMethod
from espalier.pruning.masked.statistics import NoStatistic, Statistic
from espalier.pruning.parameters import default_batch


@dataclass(frozen=True)
class Job:
    """One checkpoint to prune.

    Attributes:
        method: what decides and updates.
        pattern: checked against every matrix before anything is computed.
        sparsity: fraction removed, one for all layers or one a layer.
        input_ids: calibration tokens, int64 [samples, tokens]; None for methods without.
        batch: samples a forward pass takes; None chooses by size. Decides speed, not the result.
    """

    method: LayerMethod
    pattern: Pattern
    sparsity: float | Sequence[float]
    input_ids: Tensor | None = None
    batch: int | None = None


def prune_checkpoint(context: StageContext, job: Job) -> Masked:
    """Prune `context.inputs["model"]` into `context.output`; goes on where a killed run stopped.

    Returns:
        what was pruned, for the manifest.

    Raises:
        InputError: the checkpoint, the pattern or the tokens do not fit.
        EnvironmentFailure: no such device, or the disk cannot be written.
    """
    require_device(context.device)
    run = _Run(context, job)
    with torch.inference_mode():
        records = run.layers()
        run.rest()
    return run.section(records)


class _Run:
    def __init__(self, context: StageContext, job: Job) -> None:
        self.context, self.job = context, job
        self.parent: Path = context.inputs["model"]
        self.reader = CheckpointReader(self.parent)
        self.architecture = Architecture.of(self.parent)
        self.architecture.check(self.reader)
        count = self.architecture.num_layers
        self.sparsities = _per_layer(job.sparsity, count)
        for name, (_, columns) in self.architecture.shapes.matrices.items():
            job.pattern.check_width(f"{name} of each layer", columns)
        self.dtype = self._common_dtype()
        self.kernel = choose_products(self.dtype, context.device)
        entries = self.reader.entries
        names = [name for name in self.architecture.expected_shapes() if name in self.reader]
        specs = [entries[name].spec for name in names]
        self.writer = CheckpointWriter(context.output, specs, resume=True)

    def layers(self) -> list[dict[str, Any]]:
        """Prune every layer that an earlier run has not."""
        context, count = self.context, self.architecture.num_layers
        context.scratch.mkdir(parents=True, exist_ok=True)
        state = self._resumed()
        uses_activations = self.job.method.uses_activations
        passes: LayerPasses | None = None
        if uses_activations and state.next_layer < count:
            passes = self._passes(state)
        written: Future[None] | None = None
        with (
            ThreadPoolExecutor(1) as writer,
            ThreadPoolExecutor(1) as ahead,
            context.progress.steps("prune", count, state.next_layer) as steps,
        ):
            coming = ahead.submit(self._load, state.next_layer)
            for i in range(state.next_layer, count):
                module = coming.result()
                if passes is None:
                    coming = ahead.submit(self._load, i + 1)
                record = self._prune_layer(module, i, passes, state.hidden)
                if written is not None:
                    written.result()  # the state being saved reads the hidden states
                if passes is not None:
                    coming = ahead.submit(self._load, i + 1)
                    if i + 1 < count and state.hidden is not None:
                        passes.advance(module, i, state.hidden)
                state.records.append(record)
                hidden = state.hidden if i + 1 < count else None
                finished = ResumeState(i + 1, list(state.records), hidden)
                written = writer.submit(self._finish_layer, module, i, finished)
                steps.advance(layer=i, sparsity=record["sparsity"])
                del module
            if written is not None:
                written.result()
        return state.records

    def rest(self) -> None:
        """Copy what is outside the layers, then the index and the small files."""
        output = self.context.output
        for name in self.architecture.outer_tensor_names(self.reader):
            if name not in self.writer.written:
                self.writer.write({name: self.reader.entries[name]})
        self.writer.finish()
        copy_companions(self.parent, output)
        copy_config(self.parent, output, str(self.dtype).removeprefix("torch."))

    def section(self, records: list[dict[str, Any]]) -> Masked:
        """The manifest's account of what was pruned."""
        matrices = self.architecture.shapes.matrices
        total = sum(math.prod(shape) for shape in matrices.values())
        attainable = sum(
            self.job.method.attainable(*shape, sparsity)
            for sparsity in self.sparsities
            for shape in matrices.values()
        )
        count = len(records)
        return Masked(
            pattern=str(self.job.pattern),
            target=sum(self.sparsities) / count,
            attainable=attainable / (total * count),
            achieved=sum(record["zeros"] for record in records) / (total * count),
            layers=tuple(MaskedLayer(**record) for record in records),
            products=self.kernel,
        )

    def _resumed(self) -> ResumeState:
        """Where a killed run stopped, if all that it says is done is on the disk."""
        state = ResumeState.load(self.context.scratch)
        done = (self.architecture.layer_tensor_names(i) for i in range(state.next_layer))
        return state if self.writer.written.issuperset(chain.from_iterable(done)) else ResumeState()

    def _common_dtype(self) -> Any:
        stored = {
            self.reader.entries[f"model.layers.{i}.{name}.weight"].dtype
            for i in range(self.architecture.num_layers)
            for name in self.architecture.shapes.matrices
        }
        if len(stored) > 1:
            raise InputError(
                f"{self.parent} mixes {' and '.join(sorted(map(dtype_name, stored)))} in its "
                "matrices; convert it to one dtype first."
            )
        return self.architecture.dtype(self.reader)

    def _passes(self, state: ResumeState) -> LayerPasses:
        ids = self.job.input_ids
        if ids is None:
            raise InputError("this method needs calibration tokens; give CALIBRATION.")
        if state.hidden is None:
            state.hidden = self.architecture.embed(self.reader, ids, self.dtype)
        return LayerPasses(
            self.architecture,
            positions_for(self.architecture, state.hidden, self.context.device),
            self.kernel,
            self.job.batch or default_batch(ids.shape[1]),
            self.context.device,
        )

    def _load(self, layer: int) -> nn.Module | None:
        if layer >= self.architecture.num_layers:
            return None
        return self.architecture.load_layer(self.reader, layer, self.dtype, self.context.device)

    def _prune_layer(
        self, module: nn.Module, layer: int, passes: LayerPasses | None, hidden: Tensor | None
    ) -> dict[str, Any]:
        statistics: dict[str, Statistic] = {}
        for group in self.architecture.input_groups:
            features = module.get_submodule(group[0]).in_features
            statistics[group[0]] = (
                self.job.method.statistic(features, self.context.device)
                if passes is not None
                else NoStatistic()
            )
        if passes is not None and hidden is not None:
            passes.observe(module, layer, hidden, statistics)
        record: dict[str, Any] = {"matrices": {}}
        zeros = total = 0
        for group in self.architecture.input_groups:
            weights = {name: module.get_submodule(name).weight.data for name in group}
            # Taken out of the dictionary, a statistic is freed as soon as it was used.
            statistic = statistics.pop(group[0])
            facts = self.job.method.prune(weights, statistic, self.sparsities[layer])
            if facts:
                record.setdefault("notes", {})[group[0]] = facts
            for name, weight in weights.items():
                zero = count_zeros(weight)
                record["matrices"][name] = round(zero / weight.numel(), 6)
                zeros, total = zeros + zero, total + weight.numel()
        return {"layer": layer, "sparsity": zeros / total, "zeros": zeros, **record}

    def _finish_layer(self, module: nn.Module, layer: int, state: ResumeState) -> None:
        self.writer.write(self._contents(module, layer))
        state.save(self.context.scratch)

    def _contents(self, module: nn.Module, layer: int) -> dict[str, Content]:
        """Pruned matrices from memory, norms and biases byte for byte from the parent."""
        prefix = f"model.layers.{layer}."
        pruned = {f"{prefix}{name}.weight": name for name in self.architecture.shapes.matrices}
        return {
            name: module.get_submodule(pruned[name]).weight.data
            if name in pruned
            else self.reader.entries[name]
            for name in self.architecture.layer_tensor_names(layer)
        }


def _per_layer(sparsity: float | Sequence[float], layers: int) -> list[float]:
    if isinstance(sparsity, int | float):
        return [float(sparsity)] * layers
    if len(sparsity) != layers:
        raise InputError(f"{len(sparsity)} sparsities were given for {layers} layers.")
    return [float(value) for value in sparsity]
