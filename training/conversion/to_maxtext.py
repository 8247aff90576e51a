"""From a Hugging Face directory to MaxText's checkpoint, a tensor at a time."""

from espalier.contract.manifest import pruning_of
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.stage import Outcome, StageContext
from espalier.models.checkpoint.companions import copy_companions, copy_config
from espalier.models.content import config_as_stored
from espalier.models.shapes import Shapes
from training.conversion.orbax import abstract_weights, model_of, save
from training.conversion.spec import ToMaxTextParameters
from training.maxtext_model.checkpoint import StoredWeights
from training.maxtext_model.devices import devices_of
from training.maxtext_model.probe import probe
from training.maxtext_model.shape import stored_dtype
from training.tpu_maxtext.job import hardware


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Convert, and leave the converted model's logits to be compared with the source's."""
    assert isinstance(parameters, ToMaxTextParameters)  # noqa: S101
    source, scanned = context.inputs["model"], parameters.scan
    config = config_as_stored(source)
    with devices_of("cpu", Processes()):
        stored = StoredWeights(source, Shapes.of(config), scanned=scanned)
        wanted = abstract_weights(model_of(config, scanned=scanned))
        with context.progress.steps("to-maxtext", len(wanted)) as steps:
            arrays = {}
            for path, like in wanted.items():
                arrays[path] = stored.load(path, like)
                steps.advance(parameter=".".join(path))
        save(arrays, context.output, config, scanned=scanned)
        probe(config, arrays, context.scratch, {**hardware("cpu"), "scan_layers": scanned})
    copy_companions(source, context.output)
    copy_config(source, context.output, stored_dtype(config))
    return Outcome(pruning=pruning_of(source))
