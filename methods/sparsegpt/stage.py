"""SparseGPT as a stage."""

from espalier.calibration import load_calibration
from espalier.gates import check_parent
from espalier.pruning.stream import Job, prune_checkpoint
from espalier.stage import Outcome, StageContext
from methods.sparsegpt.algorithm import SparseGPT
from methods.sparsegpt.spec import SparseGPTParameters


def run(context: StageContext, parameters: SparseGPTParameters) -> Outcome:
    """Prune the input `model` with the tokens of the input `calibration`.

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
    pattern = parameters.mask_pattern
    job = Job(
        SparseGPT(pattern, parameters.damping, parameters.block_size),
        pattern,
        parameters.sparsity,
        calibration.input_ids,
        parameters.batch,
    )
    return Outcome(pruning=prune_checkpoint(context, job), data=calibration.record)
