"""Everything that is taken from MaxText, imported without what it says on the way.

MaxText prints and warns of what it does not find; stdout is the stage's own.
"""

import logging
import os
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

os.environ.setdefault("DECOUPLE_GCLOUD", "TRUE")  # no monitoring of Google Cloud's
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
with redirect_stdout(StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import maxtext
    from maxtext.common.train_state_nnx import TrainStateNNX
    from maxtext.configs import pyconfig
    from maxtext.layers import nnx_decoders
    from maxtext.layers.attentions import Attention
    from maxtext.layers.embeddings import RotaryEmbedding
    from maxtext.trainers.pre_train.train import eval_step, train_step
    from maxtext.utils import (
        accelerator_to_spec_map,
        maxtext_utils,
        model_creation_utils,
        sharding,
    )

for _name in ("absl", "orbax", "maxtext"):
    logging.getLogger(_name).setLevel(logging.ERROR)

BASE_CONFIG = Path(maxtext.__file__).parent / "configs" / "base.yml"

__all__ = [
    "BASE_CONFIG",
    "Attention",
    "RotaryEmbedding",
    "TrainStateNNX",
    "accelerator_to_spec_map",
    "eval_step",
    "maxtext_utils",
    "model_creation_utils",
    "nnx_decoders",
    "pyconfig",
    "sharding",
    "train_step",
]
