"""From a calibrated method's parameters and inputs to its outcome."""

from espalier.calibration import load_calibration
from espalier.gates import check_parent
from espalier.pruning.method import LayerMethod
from espalier.pruning.parameters import CalibratedPruning
from espalier.pruning.stream import Job, prune_checkpoint
from espalier.stage import Outcome, StageContext


def prune_calibrated(
    context: StageContext, parameters: CalibratedPruning, method: LayerMethod
) -> Outcome:
    """Prune the input `model` by `method` with the tokens of the input `calibration`.

    Raises:
        InputError: the model, the tokens or the pattern do not fit.
    """
    model = context.inputs["model"]
    check_parent(model)
    calibration = load_calibration(
        context.inputs["calibration"],
        model,
        parameters.samples,
        parameters.seqlen,
        parameters.seed,
    )
    job = Job(
        method,
        parameters.mask_pattern,
        parameters.sparsity,
        calibration.input_ids,
        parameters.batch,
    )
    return Outcome(pruning=prune_checkpoint(context, job), data=calibration.record)
