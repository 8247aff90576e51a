"""SliceGPT as a stage."""

import math
from typing import Any

from espalier.contract.pruned import Foreign, Pruned
from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.figures import save
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.decoder import Decoder
from espalier.models.sliced import check_sliced
from espalier.models.sliced_form import SLICED
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from espalier.pruning.structured.record import sizes_of, uniform
from espalier.pruning.structured.restructure import Selection
from methods.slicegpt.blockwise import slice_blockwise
from methods.slicegpt.cut import Cut
from methods.slicegpt.plots import draw_spectra
from methods.slicegpt.shared import slice_shared, target_of
from methods.slicegpt.spec import SliceGPTParameters

SHARED = "all"
"""The site of a basis that all of them share."""


def run(context: StageContext, parameters: SliceGPTParameters) -> Outcome:
    """Slice the input `model` by the tokens of the input `calibration`.

    Raises:
        InputError: the model or the tokens do not fit, or too little would be left.
    """
    model, given = context.inputs["model"], parameters
    calibration = load_calibration(
        context.inputs["calibration"], model, given.samples, given.seqlen, given.seed
    )
    ids, batch = calibration.input_ids, given.batch
    decoder = Decoder(model, context.device)
    cut = Cut.of(parameters, decoder, ids)
    context.progress.say(f"{cut.kept} of {cut.shapes.hidden} channels are left")
    if given.shared:
        basis = slice_shared(context, decoder, cut, ids, batch)
        sites, checks = {SHARED: basis.record(cut.kept)}, dict[str, Any]()
    else:
        records = slice_blockwise(context, decoder, cut, ids, batch)
        sites, checks = _by_name(records), check_sliced(context.output)
    scores = {
        "kind": "slicegpt",
        "model": model_name(model),
        "layers": cut.shapes.layers,
        "kept": cut.kept,
        "sites": list(sites),
        "discarded": shortened([site["discarded"] for site in sites.values()]),
        "damping": shortened([site["damping"] for site in sites.values()]),
        "eigenvalues": shortened([site["eigenvalues"] for site in sites.values()]),
        "data": about_data(calibration.record),
    }
    write_scores(context.output, scores)
    save(draw_spectra(scores), context.output / "spectra")
    notes = {"channels": cut.kept, "products": decoder.kernel}
    pruned = _account(context, cut, shared=given.shared)
    context.progress.say(str(pruned))
    return Outcome(pruning=pruned, data=calibration.record, checks=checks, notes=notes)


def _by_name(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sites in order: `embeddings`, `0.before_mlp`, `0.output`, `1.before_mlp` and so on."""
    return {
        name if name == "embeddings" else f"{record['layer']}.{name}": site
        for record in records
        for name, site in record["sites"].items()
    }


def _account(context: StageContext, cut: Cut, *, shared: bool) -> Pruned:
    if shared:
        kept = Selection(range(cut.shapes.layers))
        account = uniform(cut.shapes, target_of(cut), kept)
        return account.model_copy(update={"rotated": True})
    entries = CheckpointReader(context.output).entries.values()
    matrices = sum(math.prod(entry.shape) for entry in entries if len(entry.shape) > 1)
    return Foreign(
        form=SLICED,
        description="another basis of the residual stream at every block",
        image="eval",
        achieved=1 - matrices / cut.shapes.parameters,
        facts={
            "before": sizes_of(cut.shapes).model_dump(),
            "channels": cut.kept,
            "channels_after_last_layer": cut.shapes.hidden,
            "eps": cut.eps,
            "embeddings_centred": cut.centred,
        },
    )
