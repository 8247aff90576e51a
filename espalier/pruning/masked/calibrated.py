"""From a calibrated method's parameters and inputs to its outcome."""

from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.pruning.masked.method import LayerMethod
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from espalier.pruning.parameters import CalibratedPruning


def prune_calibrated(
    context: StageContext, parameters: CalibratedPruning, method: LayerMethod
) -> Outcome:
    """Prune the input `model` by `method` with the tokens of the input `calibration`.

    Raises:
        InputError: the model, the tokens or the pattern do not fit.
    """
    model = context.inputs["model"]
    calibration = load_calibration(
        context.inputs["calibration"],
        model,
        parameters.samples,
        parameters.seqlen,
        parameters.seed,
    )
    job = PruningJob(
        method,
        parameters.mask_pattern,
        parameters.sparsity,
        calibration.input_ids,
        parameters.batch,
    )
    return Outcome(pruning=prune_checkpoint(context, job), data=calibration.record)
