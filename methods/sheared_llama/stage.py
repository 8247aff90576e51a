"""Sheared-LLaMA as a stage: learn masks on the data of domains, and extract the target's shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer is imported
from espalier.contract.progress import Progress
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError, Interrupted
from espalier.figures import save
from espalier.models.device import require_device
from espalier.models.flops import training_flops
from espalier.models.loading import load_stock
from espalier.pruning.scores import write_scores
from espalier.pruning.structured.record import uniform
from espalier.ranks.parting import wait_for_the_first
from methods.sheared_llama.extraction import Extraction
from methods.sheared_llama.mask_run import Learned, MaskRun
from methods.sheared_llama.plots import draw_domain_losses, draw_proportions
from methods.sheared_llama.prepared import prepared
from methods.sheared_llama.ranks import Ranks
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.saved import EXTRACTED, FOLDER, RECOVERY
from methods.sheared_llama.spec import ShearedLlamaParameters
from methods.sheared_llama.target import Target
from methods.sheared_llama.written import (
    logits_difference,
    selection_of,
    write_extracted,
    write_trained,
)

MAX_DIFFERENCE = 1e-4
"""Of float32 logits, masked and extracted, relative to the largest: sums in another order."""
MAX_GAP = 0.01
"""Between a module's expected sparsity and the target's, where a run has ended as it should."""


def run(context: StageContext, parameters: ShearedLlamaParameters) -> Outcome:
    """Learn masks of the input `model` on the input `domains`; train what is left, where asked.

    Raises:
        InputError: the target, the data or the references do not fit.
        Interrupted: a signal ended it; what was learned is saved.
    """
    require_device(context.device)
    model, data = context.inputs["model"], context.inputs["domains"]
    mask_run = prepared(context, parameters)
    ranks = Ranks.of(context, mask_run)
    ranks.train(FOLDER)
    learned = mask_run.learn(mask_run.model(load_stock(model, torch.float32)), context.progress)
    target, rows = mask_run.target, mask_run.rows
    parent, seqlen = target.parent, parameters.length(target.parent.positions)
    gaps = _gaps(learned, target)
    _say_gaps(context, gaps)
    extracted = context.scratch / EXTRACTED if parameters.recover else context.output
    extraction, difference = _extract(context, mask_run, learned, extracted)
    evaluations, sampler = learned.evaluations, learned.sampler
    if parameters.recover:
        del learned  # its model and optimizer are as large as those that follow
        mask_run.leave(sampler)
        ranks.train(RECOVERY)
        stock = load_stock(extracted, torch.float32)
        evaluations = [*evaluations, *mask_run.recover(stock, sampler, context.progress)]
        write_trained(extracted, context.output, stock, context.progress)
    _draw(context.output, evaluations, mask_run, sampler, context.name)
    flops = training_flops(parent, seqlen)
    tokens = mask_run.steps * parameters.batch * seqlen
    after = mask_run.recovery_steps * parameters.rows_of_recovery * seqlen
    return Outcome(
        pruning=uniform(parent, target.shapes, selection_of(extraction)),
        training={
            **{"tokens": tokens + after, "steps": mask_run.steps + mask_run.recovery_steps},
            **{"seqlen": seqlen, "precision": mask_run.precision},
            **{"flops_per_token": flops},
            "flops": flops * tokens + training_flops(target.shapes, seqlen) * after,
            "recovery_tokens": after,
            "evaluations": evaluations,
        },
        data={
            **{"name": data.name, "tokenizer": rows.tokenizer, "sha256": rows.digest},
            "tokens_seen": tokens + after,
            "epochs": sampler.epochs,
            "proportions": evaluations[-1]["proportions"],
        },
        checks={
            "extracted_logits_difference": difference,
            "sparsity_gap": gaps,
            "held_out_loss": evaluations[-1]["loss"],
        },
        notes={"references": dict(mask_run.references), "processes": ranks.processes.world},
    )


def join(context: StageContext, parameters: ShearedLlamaParameters) -> None:
    """Run this machine's ranks; the first machine does the rest.

    Raises:
        Interrupted: the first machine has stopped.
    """
    require_device(context.device)
    try:
        ranks = Ranks.of(context, prepared(context, parameters, verify=False))
        for folder in (FOLDER, RECOVERY):
            ranks.train(folder)
    except FileNotFoundError:  # it has reported and tidied already
        raise Interrupted("the first machine has stopped.") from None
    wait_for_the_first(context.output)


def _extract(
    context: StageContext, mask_run: MaskRun, learned: Learned, output: Path
) -> tuple[Extraction, float]:
    """Write what is left of the learned model, and hold its logits against the masked one's."""
    stock, model = learned.model.stock, context.inputs["model"]
    masks = learned.model.masks.final(mask_run.target)
    extraction = Extraction(masks, mask_run.target)
    learned.model.masked.use(masks)
    # Of a step on the way, which a run that goes on repeats, metrics.jsonl says nothing.
    progress = context.progress if output == context.output else Progress()
    output.mkdir(exist_ok=True)
    write_extracted(model, output, stock, extraction, progress)
    difference = logits_difference(output, stock, extraction, mask_run.rows.held_out)
    if not difference <= MAX_DIFFERENCE:
        raise InputError(
            f"the extracted model's logits differ from the masked one's by {difference:.3g} of the "
            f"largest, where {MAX_DIFFERENCE:g} is allowed; nothing is published."
        )
    return extraction, difference


def _gaps(learned: Learned, target: Target) -> dict[str, float]:
    """Largest distance of any row's expected sparsity from the target's, by module."""
    expected = learned.model.masks.expected().sparsity()
    return {
        site: float((rows.detach() - target.sparsity[site]).abs().max())
        for site, rows in expected.items()
    }


def _say_gaps(context: StageContext, gaps: Mapping[str, float]) -> None:
    wide = {site: gap for site, gap in gaps.items() if gap > MAX_GAP}
    if wide:
        words = ", ".join(f"{site} by {gap:.1%}" for site, gap in wide.items())
        context.progress.say(
            f"the masks did not come to the target ({words}): the best units were taken all the "
            "same; give more TOKENS"
        )


def _draw(
    output: Path,
    evaluations: list[dict[str, Any]],
    mask_run: MaskRun,
    sampler: DomainSampler,
    name: str,
) -> None:
    """The proportions and the losses by domain, as numbers and as pictures."""
    history = [change.model_dump() for change in sampler.history]
    content = {"kind": "sheared-llama", "evaluations": evaluations, "proportions": history}
    write_scores(output, content)
    steps = mask_run.steps + mask_run.recovery_steps
    masks = mask_run.steps if mask_run.recovery_steps else None
    save(draw_proportions(history, steps, name, masks), output / "proportions")
    losses = draw_domain_losses(evaluations, mask_run.references, name, masks)
    save(losses, output / "losses")
