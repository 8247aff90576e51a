"""A checkpoint's model card: README.md with the header that the Hugging Face hub reads."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from espalier.contract.manifest import Manifest
from espalier.contract.pruned import Padded
from espalier.contract.store import SECTIONS
from espalier.models.aliases import model_aliases
from eval.headline import about
from eval.reporting.collected import Checkpoint
from eval.reporting.facts import Facts, method_of
from eval.reporting.measured import Measured, measurements
from eval.reporting.summary import score
from eval.reporting.tables import Table, markdown, text

HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}
"""The hub's names of licences that a manifest may state; another is `other`, by its name."""
CommandOf = Callable[[Manifest], str | None]


def model_card(checkpoint: Checkpoint, command_of: CommandOf) -> str:
    """The whole file.

    Args:
        checkpoint: what it describes.
        command_of: the command that makes what a manifest describes; None where there is none.
    """
    header = yaml.safe_dump(_header(checkpoint), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{header}---\n\n# {checkpoint.name}\n", _about(checkpoint)]
    commands = _commands(checkpoint, command_of)
    if commands:
        made_of = (*checkpoint.ancestors, checkpoint.manifest)
        parts.append("## How it was made\n\n" + _block(commands) + _own_files(made_of))
    ours = [one for each in checkpoint.evaluations for one in measurements(each)]
    if ours:
        rows = [[text(one.task), text(one.metric), score(one), text(_how(one))] for one in ours]
        parts.append(markdown(Table.of("Evaluation", ("task", "metric", "value", "of what"), rows)))
        asked = (command_of(each.manifest) for each in checkpoint.evaluations)
        if measured := [command for command in asked if command]:
            manifests = [each.manifest for each in checkpoint.evaluations]
            parts.append("Measured by:\n\n" + _block(measured) + _own_files(manifests))
    return "\n".join(parts)


def _header(checkpoint: Checkpoint) -> dict[str, Any]:
    """The hub's metadata, of which nothing is stated that no manifest says."""
    manifest, facts = checkpoint.manifest, Facts.of(checkpoint)
    header: dict[str, Any] = {}
    if licence := _licence(checkpoint):
        named = HUB_LICENCES.get(licence)
        header |= {"license": named} if named else {"license": "other", "license_name": licence}
    if base := _base_model(checkpoint):
        header["base_model"] = base
    header |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    kind = [manifest.pruning.kind] if manifest.pruning else []
    pruned = ["pruning", "sparsity"] if manifest.pruning else []
    tags = ["espalier", *pruned, *kind, method_of(checkpoint)]
    header["tags"] = list(dict.fromkeys(tags))
    if facts.sparsity is not None:
        header["espalier"] = {
            "method": facts.method,
            "parameters": facts.total,
            "nonzero": facts.nonzero,
            "sparsity": round(facts.sparsity, 6),
            "fingerprint": manifest.fingerprint,
        }
    if results := _index(checkpoint):
        header["model-index"] = [{"name": checkpoint.name, "results": results}]
    return header


def _index(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The hub's form of results."""
    return [
        {
            "task": {"type": "text-generation", "name": "Text generation"},
            "dataset": {
                "name": one.task,
                "type": one.task.removeprefix("perplexity/"),
                **_split(about(evaluation.results, one.task)),
            },
            "metrics": [
                {"type": "perplexity" if one.metric == "ppl" else one.metric.split(" ")[0],
                 "name": one.metric, "value": one.value, "verified": False}
            ],
        }
        for evaluation in checkpoint.evaluations
        for one in measurements(evaluation)
    ]  # fmt: skip


def _split(record: Mapping[str, Any]) -> dict[str, str]:
    return {"split": str(record["split"])} if record.get("split") else {}


def _about(checkpoint: Checkpoint) -> str:
    """A paragraph of facts, a line each."""
    facts, manifest = Facts.of(checkpoint), checkpoint.manifest
    lines = [f"Made: {facts.made}."]
    if facts.total is not None and facts.nonzero is not None:
        share = f" (sparsity {facts.sparsity:.4f})" if facts.sparsity is not None else ""
        lines.append(f"{facts.total:,} parameters, {facts.nonzero:,} not zero{share}.")
    if manifest.pruning:
        lines.append(f"Pruned: {manifest.pruning}.")
    if isinstance(manifest.pruning, Padded):
        padding = int((manifest.model or {}).get("padding", 0))
        lines.append(
            f"Stock loaders read it: {padding:,} more parameters are exact zeros, which pad every "
            "layer to the widest."
        )
    if facts.tokens is not None:
        lines.append(f"Trained on {facts.tokens:,} tokens along its whole lineage.")
    if facts.flops is not None:
        lines.append(f"FLOPs along its whole lineage: {facts.flops:.4g}.")
    if not _licence(checkpoint):
        lines.append("No licence is recorded: that of the first model of the lineage holds.")
    return "".join(f"- {_plain(line)}\n" for line in lines)


def _commands(checkpoint: Checkpoint, command_of: CommandOf) -> list[str]:
    """What makes it anew on an empty store, in order."""
    wanted = (command_of(each) for each in (*checkpoint.ancestors, checkpoint.manifest))
    return list(dict.fromkeys(command for command in wanted if command))


def _own_files(manifests: Sequence[Manifest]) -> str:
    """A sentence on inputs that were no part of the store; manifests know them by their hashes."""
    names = sorted(
        {
            record.name
            for manifest in manifests
            for record in manifest.inputs.values()
            if record.name.partition("/")[0] not in SECTIONS
        }
    )
    if not names:
        return ""
    are = "was a file or folder" if len(names) == 1 else "were files or folders"
    return f"\n{_plain(', '.join(names))} {are} of its maker's: give the path of yours.\n"


def _block(commands: Sequence[str]) -> str:
    """A block of code whose fence is longer than any that a command holds."""
    held = re.findall("`+", "\n".join(commands))
    fence = "`" * max(3, *(len(run) + 1 for run in held), 0)
    return f"{fence}bash\n" + "".join(f"{command}\n" for command in commands) + f"{fence}\n"


def _how(one: Measured) -> str:
    """The facts without which a number says nothing."""
    shown = ("tokens a window", "windows", "lm-eval", "shots", "rows")
    facts = dict(one.protocol)
    return ", ".join(f"{name} {facts[name]}" for name in shown if name in facts)


def _licence(checkpoint: Checkpoint) -> str | None:
    """What the first model's manifest says of it."""
    licence = checkpoint.root.notes.get("licence")
    return str(licence) if licence else None


def _base_model(checkpoint: Checkpoint) -> str | None:
    """The hub's id of the first model, where it came from the hub."""
    root = checkpoint.root
    if root.verb != "fetch" or root is checkpoint.manifest:
        return None
    named = str(root.parameters.get("model") or root.name)
    alias = model_aliases().get(named)
    found = alias.hub_id if alias else named
    return found if "/" in found else None


def _plain(line: str) -> str:
    return line.replace("<", "\\<").replace("[", "\\[").replace("`", "\\`").replace("*", "\\*")
