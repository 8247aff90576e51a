"""Wanda as a stage."""

from espalier.contract.stage import Outcome, StageContext
from espalier.pruning.masked.calibrated import prune_calibrated
from methods.wanda.algorithm import Wanda
from methods.wanda.spec import WandaParameters


def run(context: StageContext, parameters: WandaParameters) -> Outcome:
    """Prune the input `model` with the tokens of the input `calibration`."""
    method = Wanda(parameters.mask_pattern, parameters.variant)
    return prune_calibrated(context, parameters, method)
