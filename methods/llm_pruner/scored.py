"""The scores on the store: `scores.json` says of what, `scores.safetensors` holds the vectors.

Vectors are of every entry of an axis of every layer, in float32: `<layer>.<axis>.<form>`, and
`<weight>:<form>` outside the layers. From them any share, mode and form can be cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.adapter import EMBEDDING
from espalier.models.checkpoint.header import read_header
from espalier.models.checkpoint.reader import read_entry
from espalier.models.checkpoint.writer import write_safetensors
from espalier.models.shapes import Shapes
from espalier.pruning.scores import read_scores, write_scores
from methods.llm_pruner.importance import key
from methods.llm_pruner.selection import LayerImportance, of_heads

KIND, FILE = "coupled", "scores.safetensors"


@dataclass(frozen=True)
class Scored:
    """What was measured of a model.

    Attributes:
        about: the content of scores.json.
        layers: of each layer, by `importance.key`.
        outer: of what lies around them, by weight and form.
    """

    about: Mapping[str, Any]
    layers: Sequence[Mapping[str, Tensor]]
    outer: Mapping[str, Tensor]

    def write(self, directory: Path) -> None:
        """Write both files.

        Raises:
            EnvironmentFailure: the disk is full or cannot be written.
        """
        vectors = {
            f"{number}.{name}": values.float().contiguous()
            for number, layer in enumerate(self.layers)
            for name, values in layer.items()
        }
        outer = {name: values.float().contiguous() for name, values in self.outer.items()}
        write_safetensors(directory / FILE, {**vectors, **outer})
        write_scores(directory, self.about)

    @classmethod
    def read(cls, directory: Path, model: Path) -> "Scored":
        """The scores of a published directory.

        Raises:
            InputError: they cannot be read, or are of another kind or model.
        """
        about = read_scores(directory, KIND, model)
        entries = read_header(directory / FILE)
        layers: list[dict[str, Tensor]] = [{} for _ in range(about["layers"])]
        outer = {}
        for name, entry in entries.items():
            number, _, rest = name.partition(".")
            if number.isdigit():
                layers[int(number)][rest] = read_entry(entry)
            else:
                outer[name] = read_entry(entry)
        return cls(about, layers, outer)

    def importance(self, form: str, shapes: Shapes, *, reference: bool) -> list[LayerImportance]:
        """Of each layer's heads and neurons.

        Raises:
            InputError: that form was not measured.
        """
        self._require(form)
        return [
            LayerImportance(
                of_heads(
                    layer[key("queries", form)], layer[key("keys", form)], shapes,
                    reference=reference,
                ),
                layer[key("intermediate", form)],
            )
            for layer in self.layers
        ]  # fmt: skip

    def channels(self, form: str, *, reference: bool) -> Tensor:
        """Of each channel of the hidden state [H], everything added up that reads or writes it.

        The reference counts a matrix that is embedding and head at once twice, and leaves the
        embedding out of magnitudes.
        """
        self._require(form)
        total = sum((layer[key("hidden", form)] for layer in self.layers), torch.zeros(()))
        for name, values in self.outer.items():
            weight, _, of_form = name.partition(":")
            if of_form != form:
                continue
            times = 1
            if reference and weight == EMBEDDING:
                tied = bool(self.about["tied"])
                times = int(tied) if form in ("l1", "l2") else 1 + tied
            total = total + times * values.abs()
        return total

    def _require(self, form: str) -> None:
        if key("intermediate", form) not in self.layers[0]:
            raise InputError(
                f"the scores hold no {form}: they are by {self.about['importance']}; leave SCORES "
                "out to measure what is needed."
            )
