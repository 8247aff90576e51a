"""What a run comes to: its target, the rows it reads, and what its domains are compared with."""

from collections.abc import Mapping

from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.content import config_as_stored, stated_dtype
from espalier.models.shapes import Shapes, read_config
from methods.sheared_llama.artifact import DomainRows
from methods.sheared_llama.loss_stage import FILE
from methods.sheared_llama.mask_run import MaskRun
from methods.sheared_llama.named import named_numbers
from methods.sheared_llama.proportions import initial_proportions
from methods.sheared_llama.references import (
    PUBLISHED,
    Measured,
    forecast,
    given_references,
    require_references,
)
from methods.sheared_llama.spec import FORECAST, ShearedLlamaParameters
from methods.sheared_llama.target import Target


def prepared(
    context: StageContext, parameters: ShearedLlamaParameters, *, verify: bool = True
) -> MaskRun:
    """Read and check what is given.

    Args:
        context: of the stage, in whichever of its processes.
        parameters: the stage's.
        verify: False: another process has just held the data against their hashes.

    Raises:
        InputError: the target, the data or the references do not fit.
    """
    model = context.inputs["model"]
    parent = Shapes.of(read_config(model))
    target, seqlen = parameters.aim(parent), parameters.length(parent.positions)
    data = context.inputs["domains"]
    rows = DomainRows.of(data, model, parent.vocabulary, seqlen, verify=verify)
    tokens = {name: len(source) * seqlen for name, source in rows.train.items()}
    given = named_numbers(parameters.shares, "SHARES") if parameters.shares else None
    return MaskRun(
        parameters=parameters,
        target=target,
        rows=rows,
        proportions=initial_proportions(tokens, given),
        references=_references(context, parameters, target, list(rows.train)),
        steps=parameters.steps(seqlen),
        recovery_steps=parameters.steps_of_recovery(seqlen),
        precision=_precision(context, parameters),
        device=context.device,
        scratch=context.scratch,
        output=context.output,
    )


def _precision(context: StageContext, parameters: ShearedLlamaParameters) -> str:
    """Of products; Composer trains in float32 alone on a processor."""
    if context.device == "cpu":
        if parameters.precision == "bf16":
            raise InputError(
                "PRECISION=bf16 needs a GPU, as Composer refuses it on a processor; leave it out, "
                "or give ACCEL=cuda."
            )
        return "float32"
    stored = stated_dtype(config_as_stored(context.inputs["model"]))
    return parameters.precision or ("float32" if stored == "float32" else "bf16")


def _references(
    context: StageContext, parameters: ShearedLlamaParameters, target: Target, domains: list[str]
) -> Mapping[str, float]:
    """The loss of each domain that excess is counted from."""
    if parameters.proportions == "fixed":
        return {}
    if parameters.reference_losses in PUBLISHED:
        return require_references(PUBLISHED[parameters.reference_losses], domains)
    if parameters.reference_losses != FORECAST:
        return given_references(parameters.reference_losses, domains)
    measured = Measured.read(context.inputs["losses"] / FILE)
    found = forecast([measured], target.shapes.parameters)
    return require_references(found, domains)
