"""Manifests by hand, for what no stage has made."""

import json
from pathlib import Path

from espalier.contract.files import write_text
from espalier.contract.manifest import content_digest, record_files
from espalier.contract.pruned import Pruned


def mark_pruned(model: Path, pruning: Pruned | None) -> None:
    """Give a checkpoint a manifest that says how it was pruned."""
    files = record_files(model)
    record = {"name": "image", "lock": "0"}
    recipe = {"stage": "wanda", "code": "", "lock": "", "parameters": {}, "inputs": {}}
    manifest = {
        "stage": "wanda", "verb": "prune", "name": model.name, "parameters": {}, "seed": 0,
        "inputs": {}, "parents": [], "image": record, "code": {"sha256": ""}, "command": [],
        "fingerprint": "", "recipe": recipe, "content": content_digest(files),
        "files": [file.model_dump() for file in files],
        "pruning": pruning and pruning.model_dump(),
    }  # fmt: skip
    write_text(model / "manifest.json", json.dumps(manifest))
