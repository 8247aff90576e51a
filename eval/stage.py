"""The stages' entries: quiet before anything is imported, then the evaluation itself."""

import os
import sys

from espalier.parameters import Parameters
from espalier.stage import Outcome, StageContext


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.4.13."""
    _calm()
    from eval.evaluation import evaluate

    return evaluate(context, parameters, "eval.harness")


def run_legacy(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.3.0."""
    _calm()
    from eval.evaluation import evaluate

    return evaluate(context, parameters, "eval.legacy")


def _calm() -> None:
    """No bars in a log; the bars read this when they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
