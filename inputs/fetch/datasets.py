"""The published text data sets: where each lies, at which commit, and how its papers use it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from espalier.data.formats import SPOKEN, describes, format_of, splits_named
from espalier.data.text import Reading
from espalier.errors import InputError


@dataclass(frozen=True)
class TextSource:
    """A data set of the hub.

    Attributes:
        hub_id: its repository, of type dataset.
        revision: a commit, tag or branch.
        splits: split to glob of its files, of which the first `files` are fetched.
        column: the field that holds the text.
        files: how many matching files of a split are fetched (None: all); FILES= overrides it.
        calibration: how the papers draw calibration windows from it.
        perplexity: how the papers measure perplexity on it.
        scores: how Minitron and ShortGPT score layers on it.
        remark: where it is not what the papers used.
    """

    hub_id: str
    revision: str
    splits: dict[str, str]
    calibration: Reading = field(default=Reading("train", "documents"))
    perplexity: Reading = field(default=Reading("train", "stream"))
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
    "dclm": TextSource(
        hub_id="mlfoundations/dclm-baseline-1.0",
        revision="a3b142c183aebe5af344955ae20836eb34dcf69b",
        splits={"train": "global-shard_01_of_10/local-shard_0_of_10/*.jsonl.zst"},
        files=1,
        remark="the first of 27,838 files; FILES= takes more of the first local shard's 279",
    ),
    "fineweb-edu": TextSource(
        hub_id="HuggingFaceFW/fineweb-edu",
        revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
        splits={"train": "sample/10BT/*.parquet"},
        files=1,
        remark="the first file of sample-10BT; FILES= takes more of its 14",
    ),
    "redpajama": TextSource(
        hub_id="togethercomputer/RedPajama-Data-1T-Sample",
        revision="main",
        splits={"train": "*_sample.jsonl"},
        remark="the sample of a billion tokens; unpinned: the commit is resolved and recorded",
    ),
    "alpaca": TextSource(
        hub_id="yahma/alpaca-cleaned",
        revision="main",
        splits={"train": "alpaca_data_cleaned.json"},
        remark="instructions for make recover, and no text; unpinned: the commit is resolved and "
        "recorded",
    ),
}


def training_files(files: Sequence[str]) -> list[str]:
    """Of a repository's files those that hold training texts: named so, or for no split at all."""
    texts = [name for name in files if format_of(name) and not describes(PurePath(name).name)]
    splits = {name: splits_named(PurePath(name)) for name in texts}
    named = [name for name, found in splits.items() if found == ["train"]]
    return named or [name for name, found in splits.items() if not found]


def text_source(name: str) -> TextSource:
    """The data set of that name, or any of the hub's by its id.

    Raises:
        InputError: there is none.
    """
    if "/" in name:
        remark = "the first file that could be read; FILES= takes more"
        return TextSource(name, "main", {"train": "*"}, files=1, remark=remark)
    if name not in SOURCES:
        raise InputError(
            f"DATA={name} is not known; give one of {', '.join(SOURCES)}, pydoc, a hub id, or a "
            f"file of your own ({SPOKEN})."
        )
    return SOURCES[name]
