"""From MaxText's checkpoint to a Hugging Face directory."""

from espalier.contract.manifest import pruning_of
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.stage import Outcome, StageContext
from espalier.models.shapes import read_config
from training.conversion.orbax import is_scanned, load
from training.maxtext_model.checkpoint import write_checkpoint
from training.maxtext_model.devices import devices_of
from training.maxtext_model.probe import probe
from training.tpu_maxtext.job import hardware


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Convert, and leave MaxText's logits to be compared with the result's."""
    source = context.inputs["maxtext"]
    config, scanned = read_config(source), is_scanned(source)
    with devices_of("cpu", Processes()):
        arrays = load(source, config, scanned=scanned)
        write_checkpoint(arrays, context.output, config, source, scanned=scanned)
        probe(config, arrays, context.scratch, {**hardware("cpu"), "scan_layers": scanned})
    return Outcome(pruning=pruning_of(source))
