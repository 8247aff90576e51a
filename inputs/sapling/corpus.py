"""CPython's own documentation topics as a text data set."""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from espalier.contract.files import replacing
from espalier.contract.json_text import to_json
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.data.formats import SPLITS
from espalier.data.text import Description, Reading

DOCUMENT_CHARACTERS = 4000
"""Long topics are cut at a paragraph past this length, so that each split has several."""
REPEATED_CHARACTERS = 40
"""Topics quote one another: a paragraph this long is kept once, so that none is in two splits."""
HELD_OUT = {"validation": range(12), "test": range(12, 24)}
"""Percent of documents, by hash."""


def documents(topics: Mapping[str, str]) -> Iterator[str]:
    """Topics by name, without repeated paragraphs and trailing blanks, long ones cut into parts."""
    seen: set[str] = set()
    for name in sorted(topics):
        part: list[str] = []
        for paragraph in _clean(topics[name]).split("\n\n"):
            words = " ".join(paragraph.split())
            if not words or (len(words) >= REPEATED_CHARACTERS and words in seen):
                continue
            seen.add(words)
            part.append(paragraph)
            if sum(map(len, part)) >= DOCUMENT_CHARACTERS:
                yield "\n\n".join(part)
                part = []
        if part:
            yield "\n\n".join(part)


def split_of(document: str) -> str:
    """The split a document belongs to, by its own hash alone."""
    digest = hashlib.sha256(document.encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    return next((split for split, share in HELD_OUT.items() if percent in share), "train")


def _clean(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.expandtabs().splitlines()).strip("\n")


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Write `{train,validation,test}.jsonl` and dataset.json."""
    from pydoc_data.topics import topics

    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for document in documents(topics):
        splits[split_of(document)].append(document)
    for split, texts in splits.items():
        _write(context.output / f"{split}.jsonl", texts)
    revision = f"CPython {platform.python_version()}"
    description = Description(
        name="pydoc",
        source="pydoc_data.topics",
        revision=revision,
        calibration=Reading("validation", "documents"),
        perplexity=Reading("test", "stream"),
        remark="the text differs a little between releases of CPython",
    )
    description.write(context.output)
    counts = {split: len(texts) for split, texts in splits.items()}
    context.progress.say(
        f"pydoc: {sum(counts.values())} documents of {revision} "
        f"({', '.join(f'{count} {split}' for split, count in counts.items())})"
    )
    return Outcome(
        data={
            "name": "pydoc",
            "source": "pydoc_data.topics",
            "revision": revision,
            "documents": counts,
            "characters": {split: sum(map(len, texts)) for split, texts in splits.items()},
        }
    )


def _write(path: Path, texts: list[str]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(to_json({"text": text}, ensure_ascii=False) + "\n")
