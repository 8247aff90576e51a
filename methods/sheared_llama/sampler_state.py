"""What a sampler goes on from after a stop, as plain JSON: numbers come out as they went in."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from espalier.errors import InputError

Whole = Annotated[int, Field(ge=0)]


class Change(BaseModel):
    """Proportions that hold from a step on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: Whole
    proportions: dict[str, float]


class DomainState(BaseModel):
    """How many rows a domain has, and how many were drawn, over all its epochs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[int, Field(gt=0)]
    taken: Whole


class SamplerState(BaseModel):
    """All of it: random numbers follow from the seed and the step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    seed: Whole
    batch: Annotated[int, Field(gt=0)]
    step: Whole
    domains: dict[str, DomainState]
    history: Annotated[tuple[Change, ...], Field(min_length=1)]

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "SamplerState":
        """Validate what a checkpoint holds.

        Raises:
            InputError: it is no such state.
        """
        try:
            return cls.model_validate(dict(state))
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its form"
            raise InputError(
                f"the saved state of the data cannot be used ({where}); start again with FORCE=1."
            ) from None

    def require_same_run(self, now: "SamplerState") -> None:
        """Refuse to go on with other data or parameters.

        Raises:
            InputError: domains, their rows, the batch or the seed are not those of `now`.
        """
        for name, before, after in zip(
            ("domains", "rows", "sequences a batch", "seed"),
            self._identity(),
            now._identity(),
            strict=True,
        ):
            if before != after:
                raise InputError(
                    f"the stopped run had other {name} ({before}, now {after}); give it the same "
                    "data and parameters, or start again with FORCE=1."
                )

    def _identity(self) -> tuple[list[str], list[int], int, int]:
        rows = [domain.rows for domain in self.domains.values()]
        return list(self.domains), rows, self.batch, self.seed
