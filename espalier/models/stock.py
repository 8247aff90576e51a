"""The stock configuration and model classes of transformers, imported when first used.

Works with transformers 4.46 to 5.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from espalier.contract.imports import uncollected
from espalier.errors import EnvironmentFailure, InputError

UNNEEDED = ("sklearn", "scipy", "torchvision")
"""What transformers imports where it is there, for assisted generation and for pictures."""
MOST_SAID = 300
"""Letters of another package's reason."""
REQUESTS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "_attn_implementation_autoset", "output_attentions", "output_hidden_states", "return_dict",
    "torchscript",
)  # fmt: skip
"""Keys of a config.json that ask for a kernel or for more outputs, and are no part of a model."""


def stock_config(raw: Mapping[str, Any]) -> Any:
    """The stock configuration object of a config.json's content.

    Raises:
        InputError: transformers refuses it.
        EnvironmentFailure: the installed transformers does not know the family.
    """
    import transformers

    major = int(transformers.__version__.split(".")[0])
    plain = {key: value for key, value in raw.items() if key not in REQUESTS}
    settings = _rope_as_before_5(plain) if major < 5 else plain
    family = settings.pop("model_type")
    try:
        with quick_imports():
            return transformers.AutoConfig.for_model(family, **settings)
    except ValueError as error:
        if "model identifier" in str(error):
            raise EnvironmentFailure(
                f"transformers {transformers.__version__} does not know {family}; use an image "
                "with a newer one."
            ) from None
        raise refused(error) from None
    except Exception as error:  # noqa: BLE001 - validators raise classes of their own
        raise refused(error) from None


def refused(error: Exception) -> InputError:
    """What transformers has against a config.json, as one sentence."""
    reason = " ".join(str(error).split())[:MOST_SAID].rstrip(".") or type(error).__name__
    return InputError(
        f"config.json is refused by transformers: {reason}; give the one that belongs to the "
        "weights."
    )


def stock_model(config: Any) -> Any:
    """The stock causal language model of a configuration object, with new weights."""
    with quick_imports():
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", trust_remote_code=False
        )


def without_requests(config: Any) -> Any:
    """A configuration object that asks for no kernel, and for no outputs beside the logits."""
    nested = (getattr(config, name, None) for name in getattr(config, "sub_configs", ()))
    for part in (config, *(part for part in nested if part is not None)):
        part._attn_implementation = None
        part._attn_implementation_internal = None
        part.return_dict = True
        part.output_attentions = part.output_hidden_states = False
    return config


@contextmanager
def quick_imports() -> Iterator[None]:
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
