"""Numbers of which each belongs to a domain, as users write them: `cc=0.67,github=0.33`.

The host checks parameters by this too, and has no numpy.
"""

import math
from collections.abc import Iterable, Mapping

from espalier.errors import InputError


def named_numbers(text: str, parameter: str) -> dict[str, float]:
    """The numbers that a text gives, in its order.

    Args:
        text: `domain=number,domain=number`.
        parameter: whose value it is, for messages.

    Raises:
        InputError: it is not of that form, a number is NaN or infinite, or a domain comes twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (name and equals and math.isfinite(number)):
            raise InputError(
                f"{parameter} has {part.strip() or 'nothing'} where a domain and a number belong; "
                "give them as cc=0.67,github=0.33."
            )
        if name in found:
            raise InputError(f"{parameter} names {name} twice; give each domain one number.")
        found[name] = number
    return found


def in_order(values: Mapping[str, float], domains: Iterable[str], parameter: str) -> list[float]:
    """The numbers of `domains`, in the order of these.

    Raises:
        InputError: a domain has none, or one is given of a domain that the data does not have.
    """
    names = list(domains)
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    if missing:
        raise InputError(
            f"{parameter} has no number for {', '.join(missing)}; "
            f"give one for each of {', '.join(names)}."
        )
    if unknown:
        raise InputError(
            f"{parameter} names {', '.join(unknown)}, which the data does not have "
            f"(it has: {', '.join(names)})."
        )
    return [values[name] for name in names]
