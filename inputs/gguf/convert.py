"""A GGUF file becomes a Hugging Face directory: weights, config.json, tokenizer."""

from pathlib import Path
from typing import Any

from espalier.contract.files import file_sha256, write_text
from espalier.contract.json_text import to_json
from espalier.contract.progress import Progress
from espalier.models.gates import check_parent
from espalier.models.tokenizer import check_tokenizer
from inputs.gguf.config import config_of
from inputs.gguf.file import STORED, GgufFile
from inputs.gguf.tokenizer import write_tokenizer
from inputs.gguf.weights import planned, write_weights


def convert(path: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Write the model in `path` into `output`; give what the manifest should say of it.

    Everything that can be refused is, before weights are written. Weights that are stored as
    float32, float16 or bfloat16 stay as they are, others are dequantized and kept in bfloat16.

    Raises:
        InputError: no GGUF file, or one of a model, vocabulary or type that is not supported.
        EnvironmentFailure: the disk is full or cannot be written.
    """
    file = GgufFile(path)
    config = config_of(file)
    planned(file, config)
    tokenizer = write_tokenizer(file, output)
    check_tokenizer(output, config["vocab_size"])
    write_text(output / "config.json", to_json(config, indent=2) + "\n")
    write_weights(file, config, output, progress)
    check_parent(output)
    stored = {kind.name for kind in STORED}
    quantized = [name for name in file.types() if name not in stored]
    dtype = config["torch_dtype"]
    return {
        "weights": f"dequantized from {' and '.join(quantized)} to {dtype}"
        if quantized
        else f"{dtype}, as in the file",
        "gguf": {
            "file": path.name,
            "sha256": file_sha256(path),
            "name": file.value("general.name"),
            "architecture": file.architecture,
            "tensors": file.types(),
            "tokenizer": tokenizer,
        },
        "licence": file.value("general.license"),
    }
