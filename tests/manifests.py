"""Manifests by hand, for what no stage has made."""

import json
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.manifest import content_digest, record_files
from espalier.contract.pruned import Pruned


def mark_pruned(model: Path, pruning: Pruned | None) -> None:
    """Give a checkpoint a manifest that says how it was pruned."""
    mark(model, stage="wanda", verb="prune", pruning=pruning and pruning.model_dump())


def mark_exported(folder: Path, parameters: dict[str, Any], facts: dict[str, Any]) -> None:
    """Give an export of token data a manifest that says what of, and in which form."""
    mark(folder, stage="export", verb="export", parameters=parameters, data=facts)


def mark(folder: Path, **said: Any) -> None:
    """Give a folder a manifest that says so; `stage` is to be among it."""
    files = record_files(folder)
    record = {"name": "image", "lock": "0"}
    recipe = {"stage": said["stage"], "code": "", "lock": "", "parameters": {}, "inputs": {}}
    manifest = {
        "name": folder.name, "parameters": {}, "seed": 0,
        "inputs": {}, "parents": [], "image": record, "code": {"sha256": ""}, "command": [],
        "fingerprint": "", "recipe": recipe, "content": content_digest(files),
        "files": [file.model_dump() for file in files],
    }  # fmt: skip
    write_text(folder / "manifest.json", json.dumps(manifest | said))
