"""Shortened-LLaMA as a stage."""

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from methods.shortened_llama.plots import draw_blocks
from methods.shortened_llama.protection import protected, removed, removed_by_the_reference
from methods.shortened_llama.spec import ShortenedLlamaParameters


def run(context: StageContext, parameters: ShortenedLlamaParameters) -> Outcome:
    """Remove the blocks of least score in the input `scores` from the input `model`.

    Raises:
        InputError: the model, the scores or the number of layers does not fit, or too few may go.
    """
    model = context.inputs["model"]
    parent = Shapes.of(read_config(model))
    target, count = parameters.target(parent), parameters.removals(parent.layers)
    scores = read_scores(context.inputs["scores"], "shortened-llama", model)
    choose = removed_by_the_reference if parameters.reference else removed
    gone = choose(scores["order"], count, parameters.protect)
    kept = Selection([layer for layer in range(parent.layers) if layer not in gone])
    restructure(model, context.output, kept, target, context.progress)
    context.progress.say(f"removed layers {', '.join(map(str, gone))}, in this order")
    stay = sorted(protected(parent.layers, parameters.protect) - set(gone))
    written = scores | {"protected": stay, "dropped": sorted(gone)}
    write_scores(context.output, written)
    save(draw_blocks(written, gone, stay), context.output / "blocks")
    return Outcome(pruning=uniform(parent, target, kept, removal_order=gone))
