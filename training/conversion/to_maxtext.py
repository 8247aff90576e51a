"""From a Hugging Face directory to MaxText's checkpoint, a tensor at a time."""

from espalier.architectures.shapes import Shapes, read_config
from espalier.checkpoint.files import CONFIG, copy_companions, write_bytes
from espalier.manifest import pruning_of
from espalier.parameters import Parameters
from espalier.processes import Processes
from espalier.stage import Outcome, StageContext
from training.conversion.orbax import abstract_weights, model_of, save
from training.conversion.spec import ToMaxTextParameters
from training.tpu_maxtext.checkpoint import StoredWeights
from training.tpu_maxtext.devices import devices_of
from training.tpu_maxtext.job import hardware
from training.tpu_maxtext.probe import probe


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Convert, and leave the converted model's logits to be compared with the source's."""
    assert isinstance(parameters, ToMaxTextParameters)  # noqa: S101
    source, scanned = context.inputs["model"], parameters.scan
    config = read_config(source)
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
    write_bytes(context.output / CONFIG, (source / CONFIG).read_bytes())
    return Outcome(pruning=pruning_of(source))
