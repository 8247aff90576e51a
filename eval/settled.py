"""What is settled before an evaluation imports anything: no bars in a log, caches of its own."""

import os
import sys

from espalier.contract.stage import StageContext


def settle(context: StageContext) -> None:
    """No bars in a log, and row caches in the stage's own folder; both are read at import."""
    if not sys.stderr.isatty() and "ESPALIER_TERMINAL" not in os.environ:
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ["HF_DATASETS_CACHE"] = str(context.scratch / "datasets")
