"""The entries of `eval-jax`: quiet before anything is imported, then the evaluation itself."""

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from eval.settled import settle


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Evaluate with lm-eval 0.4.13 and JAX."""
    settle(context)
    from eval.maxtext.evaluation import evaluate

    return evaluate(context, parameters)


def join(context: StageContext, parameters: Parameters) -> None:
    """Run this machine's part; the first machine tells what came out."""
    settle(context)
    from eval.maxtext.evaluation import take_part

    take_part(context, parameters)
