"""Masked pruning: observe a layer's inputs, zero its matrices in place, and go on with the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Masked, MaskedLayer
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.adapter import dtype_name
from espalier.models.checkpoint.companions import copy_companions, copy_config
from espalier.models.checkpoint.writer import CheckpointWriter
from espalier.models.decoder import Decoder
from espalier.models.shapes import INPUT_GROUPS
from espalier.models.zeros import count_zeros
from espalier.pruning.layers.taps import inputs_of
from espalier.pruning.layers.walk import LayerStep, walk
from espalier.pruning.masked.effect import untouched_matrices
from espalier.pruning.masked.method import LayerMethod
from espalier.pruning.masked.statistics import NoStatistic, Statistic

COUNTS = ("total", "zeros", "inherited", "least", "dead")
"""Weights of a layer's matrices: all, zero, zero in the parent, zero at least, of dead inputs."""


@dataclass(frozen=True)
class PruningJob:
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

    @property
    def tokens(self) -> Tensor | None:
        """The tokens that pass the layers.

        Raises:
            InputError: the method needs some and there are none.
        """
        if not self.method.uses_activations:
            return None
        if self.input_ids is None:
            raise InputError("this method needs calibration tokens; give CALIBRATION.")
        return self.input_ids


def prune_checkpoint(context: StageContext, job: PruningJob) -> Masked:
    """Prune `context.inputs["model"]` into `context.output`; resumes where a killed run stopped.

    Returns:
        what was pruned, for the manifest.

    Raises:
        InputError: the checkpoint, the pattern or the tokens do not fit.
        EnvironmentFailure: no such device, or the disk cannot be written.
    """
    parent = context.inputs["model"]
    decoder = Decoder(parent, context.device)
    sparsities = _per_layer(job.sparsity, decoder.num_layers)
    for name, (_, columns) in decoder.architecture.shapes.matrices.items():
        job.pattern.check_width(f"{name} of each layer", columns)
    _check_one_dtype(decoder)
    untouched = untouched_matrices(job.method, sparsities, decoder.architecture.shapes)
    if untouched:
        context.progress.say(
            f"SPARSITY={min(sparsities):g} is less than one weight of {', '.join(untouched)}: "
            "nothing is removed there"
        )
    reader, names = decoder.reader, decoder.architecture.expected_shapes()
    specs = [reader.entries[name].spec for name in names if name in reader]
    output = CheckpointWriter(context.output, specs, resume=True)
    records = walk(
        context,
        decoder,
        _Masking(job.method, sparsities, context.device),
        title="prune",
        input_ids=job.tokens,
        batch=job.batch,
        output=output,
        shown=("sparsity",),
    )
    for name in decoder.architecture.outer_tensor_names(reader):
        output.write({name: reader.entries[name]})
    output.finish()
    copy_companions(parent, context.output)
    copy_config(parent, context.output, str(decoder.dtype).removeprefix("torch."))
    masked = _section(job, decoder, sparsities, untouched, records)
    if masked.achieved == masked.inherited:
        context.progress.say(
            f"nothing was removed: {masked.inherited:.4f} of the weights were zero in the parent, "
            f"and SPARSITY={masked.target:g} asks for no more"
        )
    return masked


class _Masking:
    """Lets a method prune each layer's matrices, by groups that share an input."""

    def __init__(self, method: LayerMethod, sparsities: Sequence[float], device: str) -> None:
        self._method, self._sparsities, self._device = method, sparsities, device

    def visit(self, step: LayerStep) -> dict[str, Any]:
        statistics, sparsity = self._observed(step), self._sparsities[step.number]
        record: dict[str, Any] = {"matrices": {}, **dict.fromkeys(COUNTS, 0)}
        for group in list(statistics):
            weights = {name: step.module.get_submodule(name).weight.data for name in group}
            # Taken out of the dictionary, a statistic is freed as soon as it was used.
            statistic = statistics.pop(group)
            own = {name: count_zeros(weight) for name, weight in weights.items()}
            facts = self._method.prune(weights, statistic, sparsity)
            if facts:
                record.setdefault("notes", {})[group[0]] = facts
            for name, weight in weights.items():
                (rows, columns), zeros = weight.shape, count_zeros(weight)
                attainable = self._method.attainable(rows, columns, sparsity)
                dead = rows * int(facts.get("dead_inputs", 0))
                counts = (rows * columns, zeros, own[name], max(attainable, own[name]), dead)
                for key, count in zip(COUNTS, counts, strict=True):
                    record[key] += count
                record["matrices"][name] = round(zeros / weight.numel(), 6)
                step.contents[step.name(f"{name}.weight")] = weight
        return {"layer": step.number, "sparsity": record["zeros"] / record["total"], **record}

    def _observed(self, step: LayerStep) -> dict[tuple[str, ...], Statistic]:
        """By group what was gathered of its inputs."""
        if step.hidden is None:
            return {group: NoStatistic() for group in INPUT_GROUPS}
        statistics = {
            group: self._method.statistic(
                step.module.get_submodule(group[0]).in_features, self._device
            )
            for group in INPUT_GROUPS
        }
        step.observe([inputs_of(group[0], found.add) for group, found in statistics.items()])
        return statistics


def _section(
    job: PruningJob,
    decoder: Decoder,
    sparsities: Sequence[float],
    untouched: tuple[str, ...],
    records: list[dict[str, Any]],
) -> Masked:

    def share(key: str) -> float:
        total = sum(record["total"] for record in records)
        return float(sum(record[key] for record in records) / total)

    of_layers = MaskedLayer.model_fields.keys()
    layers = [{k: v for k, v in record.items() if k in of_layers} for record in records]
    return Masked(
        pattern=str(job.pattern),
        target=sum(sparsities) / len(sparsities),
        attainable=share("least"),
        achieved=share("zeros"),
        inherited=share("inherited"),
        dead=share("dead"),
        untouched=untouched,
        layers=tuple(MaskedLayer(**layer) for layer in layers),
        products=decoder.kernel,
    )


def _check_one_dtype(decoder: Decoder) -> None:
    stored = {
        decoder.reader.entries[f"model.layers.{i}.{name}.weight"].dtype
        for i in range(decoder.num_layers)
        for name in decoder.architecture.shapes.matrices
    }
    if len(stored) > 1:
        raise InputError(
            f"{decoder.reader.directory} mixes {' and '.join(sorted(map(dtype_name, stored)))} in "
            "its matrices; convert it to one dtype first."
        )


def _per_layer(sparsity: float | Sequence[float], layers: int) -> list[float]:
    if isinstance(sparsity, int | float):
        return [float(sparsity)] * layers
    if len(sparsity) != layers:
        raise InputError(f"{len(sparsity)} sparsities were given for {layers} layers.")
    return [float(value) for value in sparsity]
