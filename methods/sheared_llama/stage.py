"""Sheared-LLaMA as a stage: learn masks on the data of domains, and extract the target's shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer is imported
from espalier.contract.progress import Progress
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.figures import save
from espalier.models.content import config_as_stored, stated_dtype
from espalier.models.device import require_device
from espalier.models.flops import training_flops
from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import write_scores
from espalier.pruning.structured.record import uniform
from methods.sheared_llama.artifact import DomainRows
from methods.sheared_llama.extraction import Extraction
from methods.sheared_llama.loss_stage import FILE
from methods.sheared_llama.mask_run import Learned, MaskRun
from methods.sheared_llama.named import named_numbers
from methods.sheared_llama.plots import draw_domain_losses, draw_proportions
from methods.sheared_llama.proportions import initial_proportions
from methods.sheared_llama.references import (
    PUBLISHED,
    Measured,
    forecast,
    given_references,
    require_references,
)
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.spec import FORECAST, ShearedLlamaParameters
from methods.sheared_llama.target import Target
from methods.sheared_llama.written import (
    logits_difference,
    selection_of,
    write_extracted,
    write_trained,
)

EXTRACTED = "extracted"
"""The folder of what masks left, while it is trained on."""
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
    parent = Shapes.of(read_config(model))
    target = parameters.aim(parent)
    seqlen = parameters.length(parent.positions)
    rows = DomainRows.of(data, model, parent.vocabulary, seqlen)
    mask_run = _mask_run(context, parameters, target, rows)
    learned = mask_run.learn(mask_run.model(load_stock(model, torch.float32)), context.progress)
    gaps = _gaps(learned, target)
    _say_gaps(context, gaps)
    extracted = context.scratch / EXTRACTED if parameters.recover else context.output
    extraction, difference = _extract(context, mask_run, learned, extracted)
    evaluations, sampler = learned.evaluations, learned.sampler
    if parameters.recover:
        del learned  # its model and optimizer are as large as those that follow
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
        notes={"references": dict(mask_run.references)},
    )


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
    difference = logits_difference(output, stock, extraction, mask_run.held_out)
    if not difference <= MAX_DIFFERENCE:
        raise InputError(
            f"the extracted model's logits differ from the masked one's by {difference:.3g} of the "
            f"largest, where {MAX_DIFFERENCE:g} is allowed; nothing is published."
        )
    return extraction, difference


def _mask_run(
    context: StageContext, parameters: ShearedLlamaParameters, target: Target, rows: DomainRows
) -> MaskRun:
    stored = stated_dtype(config_as_stored(context.inputs["model"]))
    precision = parameters.precision or ("float32" if stored == "float32" else "bf16")
    tokens = {name: len(source) * source.seqlen for name, source in rows.train.items()}
    given = named_numbers(parameters.shares, "SHARES") if parameters.shares else None
    seqlen = parameters.length(target.parent.positions)
    return MaskRun(
        parameters=parameters,
        target=target,
        train=rows.train,
        held_out=rows.held_out,
        proportions=initial_proportions(tokens, given),
        references=_references(context, parameters, target, list(rows.train)),
        steps=parameters.steps(seqlen),
        recovery_steps=parameters.steps_of_recovery(seqlen),
        precision=precision,
        device=context.device,
        scratch=context.scratch,
        output=context.output,
    )


def _references(
    context: StageContext, parameters: ShearedLlamaParameters, target: Target, domains: list[str]
) -> Mapping[str, float]:
    """The loss of each domain that excess is counted from."""
    if parameters.proportions == "fixed":
        return {}
    if parameters.reference_losses in PUBLISHED:
        return require_references(PUBLISHED[parameters.reference_losses], domains)
    if parameters.reference_losses != FORECAST:
        return given_references(parameters.reference_losses, domains)
    measured = Measured.read(context.inputs["losses"] / FILE)
    found = forecast([measured], target.shapes.parameters)
    return require_references(found, domains)


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
    save(draw_proportions(history, steps, name), output / "proportions")
    save(draw_domain_losses(evaluations, mask_run.references, name), output / "losses")
