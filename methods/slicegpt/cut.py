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
    def of(cls, parameters: SliceGPTParameters, decoder: Decoder, tokens: int) -> "Cut":
        """What the parameters ask of a model with so many tokens of calibration.

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
        if tokens < shapes.hidden:
            raise InputError(
                f"the calibration has {tokens} tokens, too few for a basis of {shapes.hidden} "
                "channels; give more SAMPLES or a larger SEQLEN."
            )
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
