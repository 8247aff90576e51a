"""From MaxText's checkpoint to a Hugging Face directory."""

from espalier.architectures.shapes import read_config
from espalier.manifest import pruning_of
from espalier.parameters import Parameters
from espalier.processes import Processes
from espalier.stage import Outcome, StageContext
from training.conversion.orbax import is_scanned, load
from training.tpu_maxtext.checkpoint import write_checkpoint
from training.tpu_maxtext.devices import devices_of
from training.tpu_maxtext.job import hardware
from training.tpu_maxtext.probe import probe


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Convert, and leave MaxText's logits to be compared with the result's."""
    source = context.inputs["maxtext"]
    config, scanned = read_config(source), is_scanned(source)
    with devices_of("cpu", Processes()):
        arrays = load(source, config, scanned=scanned)
        write_checkpoint(arrays, context.output, config, source, scanned=scanned)
        probe(config, arrays, context.scratch, {**hardware("cpu"), "scan_layers": scanned})
    return Outcome(pruning=pruning_of(source))
