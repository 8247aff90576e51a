"""Magnitude pruning as a stage."""

from espalier.contract.stage import Outcome, StageContext
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from espalier.pruning.parameters import SparsityParameters
from methods.magnitude.algorithm import Magnitude


def run(context: StageContext, parameters: SparsityParameters) -> Outcome:
    """Prune the input `model`.

    Raises:
        InputError: the model or the pattern does not fit.
    """
    pattern = parameters.mask_pattern
    job = PruningJob(Magnitude(pattern), pattern, parameters.sparsity)
    return Outcome(pruning=prune_checkpoint(context, job))
