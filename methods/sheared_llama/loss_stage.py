"""Losses by domain as a stage: what a model comes to on held-out rows, to be a reference."""

import torch
from torch.utils.data import DataLoader

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before streaming is imported
from espalier.contract.stage import Outcome, StageContext
from espalier.models.device import require_device
from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from methods.sheared_llama.artifact import DomainRows
from methods.sheared_llama.batches import EveryRow
from methods.sheared_llama.losses import means, next_token_losses, totals
from methods.sheared_llama.references import Measured
from methods.sheared_llama.spec import DomainLossParameters

FILE = "losses.json"


def run(context: StageContext, parameters: DomainLossParameters) -> Outcome:
    """Measure the input `model` on held-out rows of the input `domains`.

    Raises:
        InputError: the data do not fit the model.
    """
    require_device(context.device)
    model, data = context.inputs["model"], context.inputs["domains"]
    shapes = Shapes.of(read_config(model))
    seqlen = parameters.length(shapes.positions)
    rows = DomainRows.of(data, model, shapes.vocabulary, seqlen)
    evaluated = EveryRow(rows.held_out, parameters.valid)
    names = list(rows.held_out)
    stock = load_stock(model, torch.float32).to(context.device)
    sums = torch.zeros((3, len(names)), dtype=torch.int64)
    loader = DataLoader(evaluated, batch_size=parameters.micro(seqlen))
    with torch.no_grad(), context.progress.steps("measure", len(loader)) as steps:
        for batch in loader:
            ids = batch["input_ids"].to(context.device)
            losses = next_token_losses(stock(input_ids=ids, use_cache=False).logits, ids)
            sums += totals(losses.cpu(), batch["domains"], len(names))
            steps.advance()
    found = {name: loss for name, loss in means(sums, names).items() if loss is not None}
    tokens = dict(zip(names, sums[1].tolist(), strict=True))
    measured = Measured(model=model.name, parameters=shapes.parameters, losses=found, tokens=tokens)
    measured.write(context.output / FILE)
    context.progress.say(
        "REFERENCE_LOSSES=" + ",".join(f"{name}={loss:.4f}" for name, loss in found.items())
    )
    return Outcome(
        data={
            **{"name": data.name, "tokenizer": rows.tokenizer, "sha256": rows.digest},
            **{"samples": len(evaluated), "seqlen": seqlen},
        },
        notes={"losses": found},
    )
