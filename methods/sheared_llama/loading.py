"""Dynamic data loading, as a Composer callback (arXiv 2310.06694, §2.2, algorithm 1).

Each evaluation gives the loss of each domain with the masks of the target; where it is above its
reference, more of the domain is drawn from then on.
"""

from collections.abc import Mapping
from typing import Any

from composer import Callback, Logger, State
from composer.utils import dist

from espalier.contract.progress import Progress
from methods.sheared_llama.losses import means, overall_mean
from methods.sheared_llama.model import LOSSES
from methods.sheared_llama.proportions import Float64, excess_losses, updated
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.shares import Rule

EVALUATOR = "held-out"


class DynamicLoading(Callback):  # type: ignore[misc]
    """Updates the sampler's proportions, and remembers every evaluation.

    Args:
        sampler: whose proportions they are.
        rule: how they follow.
        references: loss of each domain, nats; not used where the rule is `fixed`.
        progress: is told of each evaluation.
        before: steps of an earlier run, on which those of this one are counted.

    Attributes:
        evaluations: of each, its step, its mean loss, and by domain losses and new proportions.
    """

    def __init__(
        self,
        sampler: DomainSampler,
        rule: Rule,
        references: Mapping[str, float],
        progress: Progress,
        before: int = 0,
    ) -> None:
        self._sampler, self._rule, self._references = sampler, rule, references
        self._progress, self._before = progress, before
        self.evaluations: list[dict[str, Any]] = []

    def eval_end(self, state: State, logger: Logger) -> None:
        """Update the proportions.

        Raises:
            InputError: a loss has become NaN or infinite.
        """
        sums = state.eval_metrics[EVALUATOR][LOSSES].sums.clone()
        dist.all_reduce(sums)
        step = self._before + int(state.timestamp.batch)
        losses = means(sums.cpu(), self._sampler.domains)
        proportions = self._follow(losses)
        names = self._sampler.domains
        self.evaluations.append(
            {
                "step": step,
                "loss": overall_mean(sums.cpu()),
                "losses": losses,
                "proportions": dict(zip(names, proportions.tolist(), strict=True)),
            }
        )
        by_domain = ", ".join(
            f"{name} {loss:.3f} ({share:.1%})"
            for (name, loss), share in zip(losses.items(), proportions.tolist(), strict=True)
            if loss is not None
        )
        self._progress.say(f"step {step}, held out: {by_domain}")

    def _follow(self, losses: Mapping[str, float | None]) -> Float64:
        if self._rule != "fixed":
            excess = excess_losses(losses, self._references)
            self._sampler.set_proportions(updated(self._rule, self._sampler.proportions, excess))
        return self._sampler.proportions

    def state_dict(self) -> dict[str, Any]:
        """The evaluations until now."""
        return {"evaluations": self.evaluations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind them."""
        self.evaluations = list(state["evaluations"])
