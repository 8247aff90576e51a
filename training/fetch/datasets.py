"""The published text data sets: where each lies, at which commit, and how its papers use it."""

from dataclasses import dataclass

from espalier.errors import InputError
from espalier.text import Reading


@dataclass(frozen=True)
class TextSource:
    """A data set of the hub.

    Attributes:
        hub_id: its repository, of type dataset.
        revision: a commit, tag or branch.
        splits: split to glob of its files (.json.gz, .jsonl, .parquet); the first `files` matches.
        column: the field that holds the text.
        files: how many matching files of a split are fetched (None: all).
        calibration: how the papers draw calibration windows from it.
        perplexity: how the papers measure perplexity on it.
        scores: how Minitron and ShortGPT score layers on it.
        remark: where it is not what the papers used.
    """

    hub_id: str
    revision: str
    splits: dict[str, str]
    calibration: Reading
    perplexity: Reading
    column: str = "text"
    files: int | None = None
    remark: str = ""
    scores: Reading | None = None


SOURCES = {
    "c4": TextSource(
        hub_id="allenai/c4",
        revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
        splits={
            "train": "en/c4-train.00000-of-01024.json.gz",
            "validation": "en/c4-validation.00000-of-00008.json.gz",
        },
        calibration=Reading("train", "documents"),
        perplexity=Reading("validation", "stream", " ", documents=1100, windows=256),
        scores=Reading("train", "stream", " ", documents=8000),
    ),
    "wikitext2": TextSource(
        hub_id="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        splits={
            split: f"wikitext-2-raw-v1/{split}-*.parquet"
            for split in ("train", "validation", "test")
        },
        calibration=Reading("train", "stream", " "),
        perplexity=Reading("test", "stream", "\n\n"),
        scores=Reading("train", "stream", "\n\n"),
    ),
    "wikitext103": TextSource(
        hub_id="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        splits={
            split: f"wikitext-103-v1/{split}-*.parquet" for split in ("train", "validation", "test")
        },
        calibration=Reading("train", "stream", " "),
        perplexity=Reading("test", "stream", "\n\n"),
        scores=Reading("train", "stream", "\n\n", documents=131072),
        remark="not the raw form: words are tokenised and rare ones are <unk>",
    ),
    "pg19": TextSource(
        hub_id="emozilla/pg19",
        revision="c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
        splits={
            "train": "data/train-*.parquet",
            "validation": "data/validation-*.parquet",
            "test": "data/test-*.parquet",
        },
        files=1,
        calibration=Reading("train", "documents"),
        perplexity=Reading("test", "stream", "\n\n"),
        scores=Reading("validation", "stream", " ", documents=8000),
        remark="a parquet copy of deepmind/pg19, whose loading script no longer runs; the first "
        "file of each split",
    ),
    "bookcorpus": TextSource(
        hub_id="rojagtap/bookcorpus",
        revision="main",
        splits={"train": "data/train-*.parquet"},
        files=1,
        calibration=Reading("train", "documents"),
        perplexity=Reading("train", "stream", "\n\n"),
        remark="a parquet copy of bookcorpus, whose loading script no longer runs: one sentence a "
        "document, as there, so only short windows can be drawn; the first file",
    ),
}


def text_source(name: str) -> TextSource:
    """The data set of that name.

    Raises:
        InputError: there is none.
    """
    if name not in SOURCES:
        raise InputError(
            f"DATA={name} is not known; give one of {', '.join(SOURCES)}, pydoc, or a .txt or "
            ".jsonl file of your own."
        )
    return SOURCES[name]
