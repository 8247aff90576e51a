"""What a token costs a decoder: the one count of pretraining, training, teaching and scoring.

2 FLOPs a weight forward and 4 backward (Kaplan et al., 2020, arXiv 2001.08361, section 2.1), of all
weights but the embedding, which is looked up; a tied head multiplies and counts. Attention's
products are counted as causal, half of all pairs (12 a pair and head dimension in Chowdhery et al.,
2022, appendix B, which counts them all). Zeros count as weights. Needs no torch.
"""

from espalier.models.shapes import Shapes

FORWARD, TRAINING = 2, 6
PRETRAINED_AT = 8192
"""Tokens a sequence of most of a pretraining, where a model has more positions: they come late."""


def training_flops(shapes: Shapes, seqlen: int) -> float:
    """FLOPs a token of forward and backward, in sequences of `seqlen` tokens."""
    return TRAINING * _products(shapes) + 3 * _attention(shapes, seqlen)


def forward_flops(shapes: Shapes, seqlen: float) -> float:
    """FLOPs a token of a forward pass alone: a teacher's, a calibration's."""
    return FORWARD * _products(shapes) + _attention(shapes, seqlen)


def run_flops(shapes: Shapes, teacher: Shapes | None, seqlen: int) -> float:
    """FLOPs a token of a run: the model's training, and its teacher's forward pass."""
    taught = forward_flops(teacher, seqlen) if teacher is not None else 0.0
    return training_flops(shapes, seqlen) + taught


def adapter_flops(shapes: Shapes, seqlen: float, adapters: int, *, through_weights: bool) -> float:
    """FLOPs a token of training `adapters` parameters beside frozen weights.

    Forward, and back to what every matrix reads; the matrices' own gradients are taken only where
    the adapters' come out of them, which is where a mask lies between.
    """
    weights = shapes.layers * shapes.layer_parameters
    own = (TRAINING - 2 * FORWARD) * weights if through_weights else TRAINING * adapters
    return 2 * FORWARD * _products(shapes) + own + 3 * _attention(shapes, seqlen)


def pretraining_flops(shapes: Shapes) -> float:
    """FLOPs a token of a pretraining, of which no more than the shape is known."""
    return training_flops(shapes, min(shapes.positions, PRETRAINED_AT))


def layer_flops(shapes: Shapes, seqlen: float) -> float:
    """FLOPs a token of one layer's forward pass."""
    return FORWARD * shapes.layer_parameters + _attention(shapes, seqlen) / shapes.layers


def head_flops(shapes: Shapes) -> float:
    """FLOPs a token of the head's forward pass."""
    return float(FORWARD * _head(shapes))


def _products(shapes: Shapes) -> float:
    return float(shapes.layers * shapes.layer_parameters + _head(shapes))


def _head(shapes: Shapes) -> int:
    return shapes.vocabulary * shapes.hidden


def _attention(shapes: Shapes, seqlen: float) -> float:
    return 4 * shapes.layers * shapes.heads * shapes.head_dim * seqlen / 2
