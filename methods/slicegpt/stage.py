"""SliceGPT as a stage."""

from typing import Any

from espalier.contract.pruned import Pruned
from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.models.sliced import check_sliced
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from methods.slicegpt.blockwise import slice_blockwise, sliced_account
from methods.slicegpt.cut import Cut
from methods.slicegpt.plots import draw_spectra
from methods.slicegpt.shared import rotated_account, slice_shared
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
    account: Pruned
    if given.shared:
        basis = slice_shared(context, decoder, cut, ids, batch)
        account, checks = rotated_account(cut), dict[str, Any]()
        sites = {SHARED: basis.record(cut.kept)}
    else:
        records = slice_blockwise(context, decoder, cut, ids, batch)
        account, checks = sliced_account(context.output, cut), check_sliced(context.output)
        sites = _by_name(records)
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
    context.progress.say(str(account))
    return Outcome(pruning=account, data=calibration.record, checks=checks, notes=notes)


def _by_name(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sites in order: `embeddings`, `0.before_mlp`, `0.output`, `1.before_mlp` and so on."""
    return {
        name if name == "embeddings" else f"{record['layer']}.{name}": site
        for record in records
        for name, site in record["sites"].items()
    }
