"""SparseGPT as a stage."""

from espalier.contract.stage import Outcome, StageContext
from espalier.pruning.masked.calibrated import prune_calibrated
from methods.sparsegpt.algorithm import SparseGPT
from methods.sparsegpt.spec import SparseGPTParameters


def run(context: StageContext, parameters: SparseGPTParameters) -> Outcome:
    """Prune the input `model` with the tokens of the input `calibration`."""
    method = SparseGPT(parameters.mask_pattern, parameters.damping, parameters.block_size)
    return prune_calibrated(context, parameters, method)
