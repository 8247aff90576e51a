"""The stages' entries: quiet before anything is imported, then the evaluation itself."""

import os
import sys

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.4.13."""
    _settle(context)
    from eval.evaluation import evaluate

    return evaluate(context, parameters, "eval.harness")


def run_legacy(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.3.0.

    Raises:
        InputError: as `evaluate`, or another backend than that release's own is asked for.
    """
    _settle(context)
    if getattr(parameters, "backend", "hf") != "hf":
        raise InputError("LEGACY=1 is lm-eval 0.3.0 as it was: leave BACKEND out, or LEGACY.")
    from eval.evaluation import evaluate

    return evaluate(context, parameters, "eval.legacy")


def _settle(context: StageContext) -> None:
    """No bars in a log, and row caches in the stage's own folder; both are read at import."""
    if not sys.stderr.isatty() and "ESPALIER_TERMINAL" not in os.environ:
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ["HF_DATASETS_CACHE"] = str(context.scratch / "datasets")
