"""FLAP as a stage: chooses by scores that were measured before, and writes what is left."""

from collections.abc import Iterator

import torch
from torch import Tensor

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.plots import draw_unit_scores, draw_widths
from espalier.pruning.structured.units import ATTENTION, MLP, LayerUnits, feature_columns
from methods.flap.algorithm import (
    Choice,
    Scores,
    compensation,
    metric_of,
    select,
    unit_scores,
)
from methods.flap.scored import KIND, SITES, Figures, read_figures
from methods.flap.spec import FlapParameters, check
from methods.flap.statistics import MEAN
