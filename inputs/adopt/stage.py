"""Copies what a checkpoint consists of, and nothing else of the directory; or converts a file."""

import shutil

from espalier.contract.files import replacing
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.models.gates import check_parent
from inputs.gguf.convert import convert

PARTS = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Copy weights, config and tokenizer files from the input `source`; a GGUF file is converted.

    Raises:
        InputError: the directory is no checkpoint that the contract allows, or the file is no GGUF
            file of a family, vocabulary and type that can be converted.
    """
    source = context.inputs["source"]
    if source.is_file():
        return Outcome(notes=convert(source, context.output, context.progress))
    check_parent(source)
    files = sorted({path for part in PARTS for path in source.glob(part) if path.is_file()})
    with context.progress.steps("adopt", total=len(files)) as steps:
        for path in files:
            if path.name == "manifest.json":
                continue
            with replacing(context.output / path.name) as temporary:
                shutil.copyfile(path, temporary)
            steps.advance(file=path.name)
    return Outcome(notes={"adopted_from": source.name})
