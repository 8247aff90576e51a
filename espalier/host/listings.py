"""What follows from the folders in files that cannot look into them: compose's, and the README.

Each such part stands between two lines that name it; the rest of the file is written by hand.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.discovery import methods, scorers, stages
from espalier.contract.files import write_text
from espalier.contract.parameters import assigned_as
from espalier.contract.paths import ROOT
from espalier.contract.stage import Stage
from espalier.errors import InputError
from espalier.host.services import of_training, passed_on
from espalier.host.words import Command

WIDTH = 100
EVERYWHERE = ("CKPT", "REVISION", "NAME")
"""Words that the README's table leaves to its text."""


@dataclass(frozen=True)
class Listing:
    """A part of a file, by its name there, and the lines that it has to have."""

    file: str
    name: str
    lines: Callable[[], Iterable[str]]

    def put_into(self, text: str) -> str:
        """The file's text with this part as it has to be.

        Raises:
            InputError: the two lines around it are not there.
        """
        around = re.compile(
            rf"^([^\n]*\b{self.name}: written by make listings[^\n]*\n)(.*?)"
            rf"^([^\n]*\bend of {self.name}\b)",
            re.MULTILINE | re.DOTALL,
        )
        body = "".join(f"{line}\n" for line in self.lines())
        written, found = around.subn(lambda part: part[1] + body + part[3], text)
        if found != 1:
            raise InputError(
                f"{self.file} has no place for {self.name}; put it between two lines that say "
                f"'{self.name}: written by make listings' and 'end of {self.name}'."
            )
        return written


def variables() -> Iterator[str]:
    """What compose hands on to the services, where it is set."""
    yield from _mapping("parameters", passed_on())
    yield from _mapping("training", (f'{name}: "{what}"' for name, what in of_training().items()))
    yield "x-maybe: &maybe {<<: *done, required: false}"
    yield from _mapping("pruned", ["prepare: *done", *(f"{name}: *maybe" for name in methods())])


def _mapping(name: str, pairs: Iterable[str]) -> Iterator[str]:
    """Pairs that compose refers to by a name, none of them broken in two."""
    unbroken = ", ".join(pair.replace(" ", "\N{NO-BREAK SPACE}") for pair in pairs)
    yield f"x-{name}: &{name} {{"
    for line in textwrap.wrap(unbroken, WIDTH, initial_indent="  ", subsequent_indent="  ",
                              break_on_hyphens=False, break_long_words=False):  # fmt: skip
        yield line.replace("\N{NO-BREAK SPACE}", " ")
    yield "}"


def services() -> Iterator[str]:
    """A method's two services: it prunes, and what it made is compared with what it was made of."""
    for name, stage in methods().items():
        image = f'image: "espalier/{stage.image}:${{ACCEL:-cpu}}"'
        command = f"command: [prune-{name}, SUITE=none]"
        yield f"  {name}: {{<<: *prune, profiles: [{name}], {image}, {command}}}"
        after, command = f"depends_on: {{{name}: *done}}", f"command: [eval, METHOD={name}]"
        yield f"  eval-{name}: {{<<: *compare, profiles: [{name}], {after}, {command}}}"


def on_gpus() -> Iterator[str]:
    """The same services with the images for GPUs."""
    for name, stage in methods().items():
        yield f'  {name}: {{<<: *gpu, image: "espalier/{stage.image}:cuda"}}'
        yield f'  eval-{name}: {{<<: *gpu, image: "espalier/eval:cuda"}}'


def rows() -> Iterator[str]:
    """The README's table of methods and of what measures for them."""
    yield "| target | what it does | variables |"
    yield "|---|---|---|"
    for stage in (*methods().values(), *scorers().values()):
        command = Command.of(stage)
        words = [*command.sources, *(w for each in command.stages for w in _in_order(each))]
        summary = stage.summary.replace("|", r"\|")
        yield (
            f"| `make {command.name}` | {summary} ([README]({folder_of(stage)}/README.md)) "
            f"| `{' '.join(word for word in dict.fromkeys(words) if word not in EVERYWHERE)}` |"
        )


def _in_order(stage: Stage) -> list[str]:
    """A stage's parameters as its spec has them."""
    return [word for word in map(assigned_as, stage.parameters.model_fields)
            if word in stage.parameters.words()]  # fmt: skip


def folder_of(stage: Stage) -> str:
    """The folder that a stage is: `methods/wanda`."""
    return "/".join(stage.entry.partition(":")[0].split(".")[:-1])


LISTINGS = (
    Listing("docker-compose.yml", "variables", variables),
    Listing("docker-compose.yml", "methods", services),
    Listing("docker-compose.gpu.yml", "methods", on_gpus),
    Listing("README.md", "methods", rows),
)


def write_listings(root: Path = ROOT, *, check: bool = False) -> list[str]:
    """Write all of them again; the files that were not as they have to be. Checking writes none."""
    changed = []
    for file in dict.fromkeys(listing.file for listing in LISTINGS):
        before = after = (root / file).read_text()
        for listing in LISTINGS:
            after = listing.put_into(after) if listing.file == file else after
        if after != before:
            changed.append(file)
            if not check:
                write_text(root / file, after)
    return changed


def overview() -> str:
    """What `make` alone adds to its help: the methods, and the other stages."""
    others = sorted(stages().keys() - methods().keys())
    lines = {"methods": sorted(methods()), "help-<name>, also for": others}
    return "".join(
        textwrap.fill(f"{title}: {' '.join(names)}", WIDTH, initial_indent=" ",
                      subsequent_indent="   ", break_on_hyphens=False) + "\n"
        for title, names in lines.items()
    )  # fmt: skip
