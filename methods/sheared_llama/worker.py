"""One rank: `python -m methods.sheared_llama.worker <partial directory>`, by torchrun's agent.

It trains to the last step of what is not finished: the masks, or the model that they left. The
first rank alone reads weights; the others have theirs from it.
"""

import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from espalier.contract.signals import ignore_stops

if __name__ == "__main__":
    ignore_stops()

import torch
import torch.distributed as dist

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer is imported
from espalier.contract.context import context_of
from espalier.contract.manifest import METRICS
from espalier.contract.progress import Progress
from espalier.models.loading import load_stock
from espalier.models.shapes import read_config
from espalier.models.stock import stock_config, stock_model
from espalier.ranks.rank import Rank, carried_out
from methods.sheared_llama.prepared import prepared
from methods.sheared_llama.saved import EXTRACTED, FOLDER, RECOVERY
from methods.sheared_llama.spec import ShearedLlamaParameters

LESS_MEMORY = "lower MICRO_BATCH, give RECOMPUTE=1 or more GPUS, or free some"


WAITING = timedelta(hours=1)
"""For which ranks wait for the one that writes a checkpoint or looks for a file."""
KNOWN = (
    "FSDP2 Config/APIs are experimental",
    "_fsdp_wrap attribute will be removed",
)
"""What Composer, whose last release this is, warns of."""


def work(rank: Rank) -> bool:
    """Train this rank's part; whether it came to the last step."""
    first = rank.share.rank == 0
    metrics = rank.output / METRICS if first else None
    progress = Progress(metrics, shown=first)
    context = context_of(rank.spec, rank.output, progress)
    parameters = ShearedLlamaParameters.model_validate(rank.spec.parameters)
    run = prepared(context, parameters, verify=False)
    masks = run.unfinished(FOLDER)
    rank.meet(FOLDER if masks else RECOVERY, WAITING)
    if masks:
        run.learn(run.model(_stock(context.inputs["model"], filled=first)), progress)
    else:
        run.recover(_stock(context.scratch / EXTRACTED, filled=first), run.left(), progress)
    return True


def _stock(directory: Path, *, filled: bool) -> Any:
    """A float32 model, with its weights or on no device."""
    if filled:
        return load_stock(directory, torch.float32)
    with torch.device("meta"):
        return stock_model(stock_config(read_config(directory))).float().eval()


def _leave_out_known_warnings() -> None:
    logging.captureWarnings(True)
    logger = logging.getLogger("py.warnings")
    logger.addHandler(logging.StreamHandler())
    logger.addFilter(lambda record: not any(known in record.getMessage() for known in KNOWN))


def main(output: Path) -> None:
    """Train as one of the ranks that torchrun's variables describe."""
    _leave_out_known_warnings()
    rank = Rank.begin(output)
    os.environ["NODE_RANK"] = os.environ["GROUP_RANK"]  # Composer's word for torchrun's
    if not carried_out(lambda: work(rank), rank.scratch, rank.share, LESS_MEMORY):
        os._exit(1)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
