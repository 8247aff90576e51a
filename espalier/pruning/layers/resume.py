"""What a killed run leaves behind to go on at the layer where it stopped."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from espalier.contract.json_text import to_json
from espalier.errors import InputError
from espalier.models.checkpoint.header import read_header, read_metadata
from espalier.models.checkpoint.reader import read_entry
from espalier.models.checkpoint.writer import Content, write_safetensors

FILE = "layers.safetensors"
HIDDEN, CARRIED = "hidden", "carried."
FORM = "2"
"""What records hold changes with it: a state of another form is not gone on from."""


@dataclass
class ResumeState:
    """The run after some layers.

    Attributes:
        next_layer: the first layer not yet done; the files of those before are complete.
        records: what is known of each layer done.
        hidden: inputs of `next_layer` [samples, tokens, hidden]; None where none are needed.
        carried: tensors that a visitor hands on from layer to layer, by name.
    """

    next_layer: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    hidden: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)

    def save(self, scratch: Path) -> None:
        """Replace the state in `scratch` atomically."""
        tensors: dict[str, Content] = {CARRIED + k: tensor for k, tensor in self.carried.items()}
        if self.hidden is not None:
            tensors[HIDDEN] = self.hidden
        write_safetensors(
            scratch / FILE,
            tensors,
            {
                "form": FORM,
                "next_layer": str(self.next_layer),
                "records": to_json(self.records),
            },
        )

    @classmethod
    def load(cls, scratch: Path) -> "ResumeState":
        """The state in `scratch`, or that of a run not begun."""
        file = scratch / FILE
        if not file.exists():
            return cls()
        try:
            entries = read_header(file)
            metadata = read_metadata(file)
            if metadata["form"] != FORM:
                return cls()
            records = json.loads(metadata["records"])
            hidden = read_entry(entries[HIDDEN]) if HIDDEN in entries else None
            carried = {
                name.removeprefix(CARRIED): read_entry(entry)
                for name, entry in entries.items()
                if name.startswith(CARRIED)
            }
            return cls(int(metadata["next_layer"]), records, hidden, carried)
        except (InputError, KeyError, ValueError):
            return cls()  # a damaged state costs the layers done, never a wrong result
