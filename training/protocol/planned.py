"""What plans of training runs are told in the same words, whatever is to train. Needs no torch."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from espalier.contract.json_text import from_json, to_json
from training.protocol.parameters import ProtocolParameters
from training.protocol.sparsity import Zeros


def _parsed(value: Any) -> Any:
    return from_json(value) if isinstance(value, str) else value


Config = Annotated[Mapping[str, Any], BeforeValidator(_parsed)]


class PlannedParameters(ProtocolParameters):
    """A training run and the shape that it has: everything decides the plan."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset()
    FILLED: ClassVar[frozenset[str]] = frozenset(("config", "masked", "teacher_config"))

    config: Annotated[Config, Field(description="the model's config.json")]
    masked: Annotated[bool, Field(description="the model was pruned by a pattern")] = False
    padded: Annotated[bool, Field(description="its layers are padded to one width")] = False
    mfu: Annotated[
        float, Field(gt=0, le=1, description="share of the peak that the model's FLOPs take")
    ] = 0.4

    @property
    def zeros(self) -> Zeros | None:
        """What stays zero; of padding too it is planned for as if it were in every matrix."""
        return Zeros() if self.padded or (self.masked and self.policy == "preserve") else None

    @property
    def hardware(self) -> str:
        """What the run is planned for, as its name has it."""
        raise NotImplementedError

    def label(self) -> str:
        """`8xh100-1f0c25d2`: a plan that differs in anything has a name of its own."""
        digest = hashlib.sha256(to_json(self.identity(), sort_keys=True).encode()).hexdigest()
        return f"{self.hardware}-{digest[:8]}"
