"""The loss of each domain that a sheared model is to come down to: given, measured or forecast."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.errors import InputError
from methods.sheared_llama.named import in_order, named_numbers

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    name: dict(
        zip(
            ("cc", "github", "book", "stackexchange", "wiki", "arxiv", "c4-rp"), losses, strict=True
        )
    )
    for name, losses in {
        "2.7b": (1.8712, 0.6883, 2.0325, 1.5353, 1.6297, 1.3560, 2.0328),
        "1.3b": (1.9643, 0.7459, 2.1393, 1.6117, 1.7590, 1.4449, 2.1251),
        "370m": (2.1401, 0.8694, 2.3625, 1.7791, 2.0470, 1.6637, 2.3139),
    }.items()
}
"""Nats a token on RedPajama's domains with Llama 2's tokenizer, of the published target shapes."""
EXPONENT = 0.076
"""Of the loss in the model's size where only one model is measured (Kaplan et al., 2020, arXiv
2001.08361, eq. 1.1: L = (N_c / N)^0.076)."""

Loss = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Measured(BaseModel):
    """Losses of one model, as the stage that measures them leaves them on the store.

    Attributes:
        model: whose they are.
        parameters: how many it has.
        losses: mean cross-entropy of each domain, nats a token.
        tokens: how many of each domain they are means over.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    parameters: Annotated[int, Field(gt=0)]
    losses: dict[str, Loss]
    tokens: dict[str, Annotated[int, Field(gt=0)]]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: a loss is NaN or infinite.
            EnvironmentFailure: the disk is full or cannot be written.
        """
        write_text(path, to_json(self.model_dump(), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """Read what `write` wrote.

        Raises:
            InputError: there is no such file, or it is of another form.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError:
            raise InputError(
                f"{path} cannot be read; measure the reference losses again."
            ) from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its form"
            raise InputError(
                f"{path} holds no reference losses ({where}); measure them again."
            ) from None


def given_references(text: str, domains: Iterable[str]) -> dict[str, float]:
    """What `domain=loss,domain=loss` says, in the order of `domains`.

    Raises:
        InputError: it is not of that form, a loss is negative, or they are not one for each domain.
    """
    return require_references(named_numbers(text, "REFERENCE_LOSSES"), domains)


def require_references(losses: Mapping[str, float], domains: Iterable[str]) -> dict[str, float]:
    """The losses in the order of `domains`.

    Raises:
        InputError: one is missing, of a domain that the data does not have, negative or NaN.
    """
    names = list(domains)
    found = in_order(losses, names, "REFERENCE_LOSSES")
    for name, loss in zip(names, found, strict=True):
        if not 0 <= loss < math.inf:
            raise InputError(f"REFERENCE_LOSSES gives {name} a loss of {loss:g}; give 0 or more.")
    return dict(zip(names, found, strict=True))


def forecast(measured: Iterable[Measured], parameters: int) -> dict[str, float]:
    """The loss of each domain that a model of `parameters` parameters would have, nats a token.

    A power law in the number of parameters, for each domain by itself: ln L = ln L_1 - a ln N, as
    models of one family that saw as many tokens follow it (the paper extrapolates Llama 2's sizes
    in this way). Of two or more models both constants are fitted by least squares; of one,
    L = L_model (N_model / N)^EXPONENT.

    Args:
        measured: one model, or several of different sizes, with the same domains.
        parameters: of the target shape.

    Raises:
        InputError: there is no model, domains differ, a loss is 0, or a fit says that smaller
            models are better.
    """
    models = list(measured)
    if not models:
        raise InputError("a forecast needs a model whose losses are measured; name one.")
    if len(models) > 1 and len({one.parameters for one in models}) == 1:
        raise InputError("a forecast needs models of different sizes; name another or just one.")
    domains = list(models[0].losses)
    losses = [in_order(one.losses, domains, f"REFERENCE_LOSSES of {one.model}") for one in models]
    sizes = [one.parameters for one in models]
    return {
        name: _extrapolated(name, sizes, of_models, parameters)
        for name, *of_models in zip(domains, *losses, strict=True)
    }


def _extrapolated(
    domain: str, sizes: Sequence[int], losses: Sequence[float], parameters: int
) -> float:
    if min(losses) <= 0:
        raise InputError(
            f"the loss on {domain} is 0, which has no forecast; give REFERENCE_LOSSES as "
            "domain=loss for each."
        )
    if len(sizes) == 1:
        return losses[0] * math.pow(sizes[0] / parameters, EXPONENT)
    line = linear_regression([*map(math.log, sizes)], [*map(math.log, losses)])
    if line.slope > 0:
        raise InputError(
            f"the larger of the models has the higher loss on {domain}, so nothing can be "
            "forecast from them; name other models, or give REFERENCE_LOSSES as domain=loss for "
            "each."
        )
    return math.exp(line.intercept + line.slope * math.log(parameters))
