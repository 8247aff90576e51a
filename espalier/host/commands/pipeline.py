"""`make pipeline` and `make prune-<method>`: prune, train where asked, and evaluate all of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.discovery import method_named
from espalier.host.commands.evaluation import EVALUATION, TASK_DATA, evaluate
from espalier.host.commands.planning import planned_before
from espalier.host.commands.pruning import PruningCommand, known_names
from espalier.host.commands.sources import text_named
from espalier.host.commands.training import TrainingCommand
from espalier.host.draft import Draft

DEFAULT_METHOD = "wanda"


@dataclass(frozen=True)
class Pipeline:
    """A pruning, a training or none, and the words of the evaluations or none."""

    pruning: PruningCommand
    training: TrainingCommand | None
    evaluation: Mapping[str, str] | None

    @classmethod
    def parse(cls, method: str, given: Mapping[str, str]) -> "Pipeline":
        """Read the assignments, but for settings and METHOD.

        Raises:
            InputError: something is unknown, does not hold or has no use.
        """
        rest = dict(given)
        known = known_names(method_named(method)) | {
            *(*EVALUATION, "MODEL", "CKPT", "NAME", "REVISION")
        }
        training = TrainingCommand.of_pipeline(rest, known)
        evaluation = {key: rest.pop(key) for key in EVALUATION if key in rest}
        # The rows that the result is evaluated on are also those that layers are scored by.
        rows = {key: value for key, value in evaluation.items() if key == TASK_DATA}
        pruning = PruningCommand.parse(method, rest | rows)
        return cls(pruning, training, None if evaluation.get("SUITE") == "none" else evaluation)

    def add(self, draft: Draft, tpu: Callable[[], str] | None = None) -> Path:
        """The last checkpoint; `tpu` asks what its training has to fit, where that is paid for."""
        parent, pruned = self.pruning.add(draft)
        trained = self.training and self.training.continued(draft, pruned, parent)
        results = [pruned, trained] if trained else [pruned]
        words, evaluations = self.evaluation, []
        if words is not None:
            evaluations = [evaluate(draft, model, words) for model in (parent, *results)]
            if "DATA" in words:  # a text that cannot be had is best known before pruning
                draft.wait(pruned, text_named(draft, words["DATA"]))
        draft.step(f"prune-{self.pruning.stage.name}", [pruned])
        if self.training and trained:
            if tpu and (planned := planned_before(draft, self.training, trained, pruned, tpu)):
                draft.step("plan-tpu", [planned], tables=[(planned,)])
            draft.step(self.training.stage.name, [trained])
        if words is not None:
            before, *after = evaluations
            # Nobody has asked for it without a SUITE: then its text may be out of reach.
            hint = f"Try make eval CKPT={results[-1].name} DATA=<a text>."
            tables = [(before, result) for result in after]
            draft.step("eval", evaluations, tables, "" if "SUITE" in words else hint)
        return results[-1]
