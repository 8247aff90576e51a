"""The stock configuration and model classes of transformers, imported when first used.

Works with transformers 4.46 to 5.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from espalier.contract.imports import uncollected
from espalier.errors import EnvironmentFailure, InputError

UNNEEDED = ("sklearn", "scipy")
"""What transformers imports where it is there, for losses of detectors and assisted generation."""


def stock_config(raw: Mapping[str, Any]) -> Any:
    """The stock configuration object of a config.json's content.

    Raises:
        InputError: transformers refuses it.
        EnvironmentFailure: the installed transformers does not know the family.
    """
    import transformers

    major = int(transformers.__version__.split(".")[0])
    settings = _rope_as_before_5(raw) if major < 5 else dict(raw)
    family = settings.pop("model_type")
    try:
        with _quick_imports():
            return transformers.AutoConfig.for_model(family, **settings)
    except ValueError as error:
        if "model identifier" in str(error):
            raise EnvironmentFailure(
                f"transformers {transformers.__version__} does not know {family}; use an image "
                "with a newer one."
            ) from None
        raise InputError(f"config.json is refused by transformers: {error}") from None
    except Exception as error:  # noqa: BLE001 - validators raise classes of their own
        raise InputError(f"config.json is refused by transformers: {error}") from None


def stock_model(config: Any) -> Any:
    """The stock causal language model of a configuration object, with new weights."""
    with _quick_imports():
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", trust_remote_code=False
        )


@contextmanager
def _quick_imports() -> Iterator[None]:
    """Import without what is not used here: it would take as long as the rest."""
    import transformers.utils
    from transformers.utils import import_utils

    hidden = [
        (module, name, getattr(module, name))
        for module in (transformers.utils, import_utils)
        for name in (f"is_{package}_available" for package in UNNEEDED)
        if hasattr(module, name)
    ]
    for module, name, _ in hidden:
        setattr(module, name, lambda *_, **__: False)
    try:
        with uncollected():
            yield
    finally:
        for module, name, found in hidden:
            setattr(module, name, found)


def _rope_as_before_5(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, which transformers 5 writes, as the two keys that 4 reads."""
    settings = dict(raw)
    rope = dict(settings.pop("rope_parameters", None) or {})
    if rope:
        settings["rope_theta"] = rope.pop("rope_theta", 10000.0)
        if rope.get("rope_type", "default") != "default":
            settings["rope_scaling"] = rope
    return settings
