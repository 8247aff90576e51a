"""The stages' entries: quiet before anything is imported, then the evaluation itself."""

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from eval.settled import settle


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.4.13."""
    settle(context)
    from eval.evaluation import evaluate

    return evaluate(context, parameters, "eval.harness")


def run_legacy(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.3.0.

    Raises:
        InputError: as `evaluate`, or another backend than that release's own is asked for.
    """
    settle(context)
    if getattr(parameters, "backend", "hf") != "hf":
        raise InputError("LEGACY=1 is lm-eval 0.3.0 as it was: leave BACKEND out, or LEGACY.")
    from eval.evaluation import evaluate

    return evaluate(context, parameters, "eval.legacy")
