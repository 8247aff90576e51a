"""Validated stage parameters, given on the command line as upper-case KEY=value."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from espalier.errors import InputError


def _unset_if_empty(value: Any) -> Any:
    return None if value == "" else value


UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MOST = 10**18
"""No count is as large as that; what int64 holds is more."""
_NUMBER = re.compile(
    r"(?P<number>[+-]?(?=\.?\d)(\d{1,3}([,_]\d{3})+|\d*)(\.\d+)?(e[+-]?\d{1,3})?)(?P<unit>[KMBT]?)",
    re.ASCII | re.IGNORECASE,
)


def parse_count(value: Any) -> Any:
    """`15T`, `2.5B`, `700K`, `1e6`, `1,000` as a whole number; what is no text is left to pydantic.

    A fraction that a unit leaves (0.3333B is whole, 1.0001K is not) is rounded.

    Raises:
        ValueError: it is no number, not a whole one, or too large.
    """
    if not isinstance(value, str) or not value:
        return _unset_if_empty(value)
    found = _NUMBER.fullmatch(value.strip())
    if found is None:
        raise ValueError("is not a number such as 15T, 2.5B, 700K, 1e6 or 1,000,000")
    unit = found["unit"].upper()
    number = Decimal(re.sub("[,_]", "", found["number"])) * UNITS[unit]
    if abs(number) >= MOST:
        raise ValueError(f"is too large; give less than {MOST:.0e}")
    if number != round(number) and not unit:
        raise ValueError("is not a whole number; give one such as 700000, 700K or 2.5B")
    return round(number)


Count = BeforeValidator(parse_count)
"""Of every number of tokens or parameters, which may be given with a unit."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="random seed")]
Optional = BeforeValidator(_unset_if_empty)


def assigned_as(name: str) -> str:
    """What assigns a field; one that Python has a word of its own for ends in an underscore."""
    return name.rstrip("_").upper()


class Parameters(BaseModel):
    """Base of every stage's parameters: immutable, no unknown names, upper-case on the outside."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=assigned_as,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    EXECUTION: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how to run, not what comes out: recorded, and not fingerprinted."""

    FILLED: ClassVar[frozenset[str]] = frozenset()
    """Fields that the host fills in, of what it knows: nobody gives them."""

    @classmethod
    def words(cls) -> frozenset[str]:
        """The names of what may be given, as they are assigned."""
        return frozenset(assigned_as(name) for name in cls.model_fields.keys() - cls.FILLED)

    def identity(self) -> dict[str, Any]:
        """What is fingerprinted of them."""
        return self.model_dump(mode="json", exclude=set(self.EXECUTION))

    @classmethod
    def identity_of(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """What is fingerprinted of parameters that another version has recorded, perhaps.

        One that it did not have has its default, and what only says how to run is left out.
        """
        try:
            return cls.model_validate(dict(recorded)).identity()
        except (ValidationError, InputError):  # no longer allowed: other parameters, then
            return {name: value for name, value in recorded.items() if name not in cls.EXECUTION}

    @model_validator(mode="after")
    def _are_countable(self) -> Self:
        """Whole numbers that whatever they become, such as bytes of memory, can be counted in."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) >= MOST:
                raise ValueError(
                    f"{assigned_as(name)}={value} is too large; give less than {MOST:.0e}"
                )
        return self

    def label(self) -> str:
        """What the default name of a result says of its parameters."""
        return ""

    def unused(self) -> frozenset[str]:
        """Roles of the stage's inputs that these parameters have no use for."""
        return frozenset()

    @classmethod
    def from_assignments(cls, assignments: dict[str, str]) -> Self:
        """Validate `{"SPARSITY": "0.5"}`.

        Raises:
            InputError: one sentence naming each parameter that does not hold.
        """
        try:
            return cls.model_validate(assignments)
        except ValidationError as error:
            raise InputError(sentence(error, cls)) from None


HIDDEN = "hidden"
"""The type of a validation error whose input is not to be shown."""
Device = Literal["cpu", "cuda"]


def sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """What a validation found, as one sentence for the user."""
    known = ", ".join(sorted(assigned_as(name) for name in model.model_fields))
    parts = []
    for problem in error.errors():
        name = assigned_as(str(problem["loc"][0])) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            parts.append(f"{name} is not a parameter here (known: {known})")
        elif problem["type"] == HIDDEN:
            parts.append(f"{name} {problem['msg']}")
        elif problem["type"] == "missing":
            parts.append(f"{name} is needed")
        else:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            parts.append(f"{name}={problem['input']} {message}" if name else message)
    return "; ".join(parts) + "."
