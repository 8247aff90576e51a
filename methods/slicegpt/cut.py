"""What is asked of SliceGPT, checked against the model and the tokens before any work."""

import math
from dataclasses import dataclass

from torch import Tensor

from espalier.errors import InputError
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes
from methods.slicegpt.algorithm import Basis, kept_channels, random_rotation, turned
from methods.slicegpt.spec import SliceGPTParameters

REFERENCE_EPS = 1e-5
"""What the reference implementation has in every norm, whatever the model's is."""


@dataclass(frozen=True)
class Cut:
    """One slicing of one model.

    Attributes:
        shapes: the parent's.
        kept: channels that are left.
        eps: of every norm, by the parent's width.
        turns: the seed of random orientations; None: the principal directions stay as they are.
        centred: whether embeddings are centred, as the reference does.
    """

    shapes: Shapes
    kept: int
    eps: float
    turns: int | None
    centred: bool

    @classmethod
    def of(cls, parameters: SliceGPTParameters, decoder: Decoder, input_ids: Tensor) -> "Cut":
        """What the parameters ask of a model with these tokens of calibration, int64 [S, T].

        Raises:
            InputError: too little would be left, or the tokens are too few for a basis.
        """
        shapes = decoder.architecture.shapes
        interval = parameters.round
        if shapes.hidden % interval:
            raise InputError(
                f"ROUND={interval} does not divide the model's {shapes.hidden} channels; give "
                f"ROUND={math.gcd(interval, shapes.hidden)} or another divisor."
            )
        if parameters.shared:
            interval = math.lcm(interval, shapes.heads)
        kept = kept_channels(
            shapes.hidden, parameters.sparsity, interval, reference=parameters.reference
        )
        if not kept:
            left = int((1 - parameters.sparsity) * shapes.hidden)
            why = f", which SHARED=1 makes a multiple of the {shapes.heads} heads"
            raise InputError(
                f"SPARSITY={parameters.sparsity:g} leaves {left} of {shapes.hidden} channels, less "
                f"than ROUND={interval}{why if interval != parameters.round else ''}; give a "
                "smaller SPARSITY."
            )
        _check_rank(input_ids, shapes.hidden, 0 if parameters.shared else kept)
        return cls(
            shapes,
            kept,
            REFERENCE_EPS
            if parameters.reference
            else float(decoder.architecture.config.rms_norm_eps),
            parameters.seed if parameters.orientation == "random" else None,
            centred=parameters.reference,
        )

    def directions(self, basis: Basis, site: int, count: int | None = None) -> Tensor:
        """The first `count` directions [D, count] of a site's basis, by default those left."""
        size = count or self.kept
        turn = None if self.turns is None else random_rotation(size, self.turns, site)
        return turned(basis.vectors[:, :size], turn)


def _check_rank(input_ids: Tensor, width: int, kept: int) -> None:
    """Refuse tokens whose states cannot span the directions that are wanted of them.

    Args:
        input_ids: int64 [S, T].
        width: channels, of which a basis is found.
        kept: directions left of the embeddings alone; 0 where they have no basis of their own.

    Raises:
        InputError: the rank of a second moment would be too low.
    """
    if input_ids.numel() < width:
        raise InputError(
            f"the calibration has {input_ids.numel()} tokens, which span no more directions, and "
            f"the model has {width} channels; give more SAMPLES or a larger SEQLEN."
        )
    distinct = len(input_ids.unique())
    if distinct < kept:
        raise InputError(
            f"the calibration has {distinct} different tokens, whose embeddings span no more "
            f"directions, and {kept} are to be left; give more SAMPLES or a larger SPARSITY."
        )
