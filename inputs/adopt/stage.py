"""Copies what a checkpoint consists of, and nothing else of the directory; or converts a file."""

from espalier.contract.links import copy_below
from espalier.contract.manifest import MANIFEST
from espalier.contract.parameters import Parameters
from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Masked
from espalier.contract.stage import Outcome, StageContext
from espalier.models.checkpoint.companions import LEGAL
from espalier.models.found_zeros import FoundZeros, found_masked
from espalier.models.tokenizer import make_tokenizer_json
from inputs.adopt.spec import AdoptParameters

PARTS = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja", *LEGAL)


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Copy weights, config and tokenizer files from the input `source`; a GGUF file is converted.

    Raises:
        InputError: the directory is no checkpoint that the contract allows, or the file is no GGUF
            file of a family, vocabulary and type that can be converted.
    """
    assert isinstance(parameters, AdoptParameters)  # noqa: S101
    source = context.inputs["source"]
    if source.is_file():
        from inputs.gguf.convert import convert  # a directory is adopted without gguf

        notes = convert(source, context.output, context.progress)
        return Outcome(pruning=_recorded(context, parameters), notes=notes)
    files = sorted({path for part in PARTS for path in source.glob(part) if path.is_file()})
    with context.progress.steps("adopt", total=len(files)) as steps:
        for path in files:
            if path.name == MANIFEST:
                continue
            copy_below(source, path, context.output / path.name)
            steps.advance(file=path.name)
    make_tokenizer_json(context.output, context.progress.say)
    pruning = _account(context, parameters)
    return Outcome(pruning=pruning, notes={"adopted_from": source.name})


def _account(context: StageContext, parameters: AdoptParameters) -> Masked | None:
    """What was pruned of the copy, as PATTERN has it; what is found and not said is told.

    Raises:
        InputError: PATTERN does not hold.
    """
    if parameters.pattern is not None:
        return _recorded(context, parameters)
    found = FoundZeros.of(context.output)
    if found.pruned:
        context.progress.say(
            f"{found}; if it was pruned, PATTERN={found.pattern} records that, for training, "
            "gates and conversions to go by."
        )
    return None


def _recorded(context: StageContext, parameters: AdoptParameters) -> Masked | None:
    """The account that PATTERN gives, where it is given."""
    if parameters.pattern is None:
        return None
    return found_masked(context.output, Pattern.parse(parameters.pattern))
