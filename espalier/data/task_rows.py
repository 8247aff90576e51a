"""Tasks whose rows lie in a folder: `<task>.jsonl` or its like, the evaluated split of the hub.

Names that lm-eval knows are its own tasks, prompts and versions, given our rows. Rows of
`sentence_good` and `sentence_bad` are a minimal-pair task (BLiMP) whatever their name. Examples
that stand before a question are drawn from `<task>.fewshot.jsonl` beside its rows. What is here
holds for every lm-eval 0.4, and imports none.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.data.formats import LINES, TEXT, describes, format_of
from espalier.data.task_columns import MINIMAL_PAIRS, check_rows, read_rows
from espalier.data.text_files import rows_of, without_mark
from espalier.errors import InputError

SPLIT = "test"
"""What lm-eval calls the rows, whichever split of the hub's they are."""
EXAMPLES, EXAMPLES_SPLIT = ".fewshot", "train"
"""What follows a task's name in the file of its examples, and what lm-eval calls their rows."""


def task_files(folder: Path, names: Sequence[str], variable: str = "TASKS") -> dict[str, Path]:
    """The row file of each task; of every file in the folder where none is named.

    Args:
        folder: holds `<task>.jsonl`, or a task's rows in another format that can be read.
        names: the tasks.
        variable: what they were named by.

    Raises:
        InputError: a file is missing or cannot be read, a task is there twice, there is none, or a
            row does not fit its task.
    """
    present = {
        name: path
        for name, path in _row_files(folder, names).items()
        if not name.endswith(EXAMPLES)
    }
    if not present:
        raise InputError(f"TASK_DATA={folder} holds no <task>.jsonl; put the tasks' rows there.")
    if missing := [name for name in names if name not in present]:
        raise InputError(
            f"TASK_DATA={folder} lacks {', '.join(f'{name}.jsonl' for name in missing)}; put the "
            f"evaluated split's rows there, or name what is there with {variable}=."
        )
    found = {name: present[name] for name in names or present}
    for name, path in found.items():
        check_rows(name, path)
    return found


def example_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The files that examples are drawn from, of those of the tasks that have one.

    Raises:
        InputError: a file cannot be read, is there twice, or a row does not fit its task.
    """
    names = list(names)
    present = _row_files(folder, names)
    found = {name: path for name in names if (path := present.get(name + EXAMPLES))}
    for name, path in found.items():
        check_rows(name, path)
    return found


def _row_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """All files of rows by what stands before their ending; `names` are the tasks in question."""
    if not folder.is_dir():
        raise InputError(f"TASK_DATA={folder} is not a folder; give one of <task>.jsonl files.")
    present: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        form = format_of(path.name)
        if form is None or form.startswith(TEXT):
            if not (names or describes(path.name) or path.is_dir()):
                raise InputError(f"{path} holds no rows that can be read; take it out of there.")
            continue
        name = path.name[: -len(form)]
        asked = not names or name.removesuffix(EXAMPLES) in names
        if name in present and asked:
            raise InputError(
                f"TASK_DATA={folder} has {present[name].name} and {path.name}; take one out."
            )
        present[name] = path
    return present


def as_lines(files: Mapping[str, Path], scratch: Path) -> dict[str, Path]:
    """The same rows as plain JSON lines, which lm-eval reads: written to `scratch` where needed.

    Raises:
        InputError: a file is not whole, or holds no rows.
    """
    return {name: _as_lines(name, path, scratch) for name, path in files.items()}


def _as_lines(name: str, path: Path, scratch: Path) -> Path:
    with path.open("rb") as file:
        begin = file.read(4)
    if path.suffix == LINES and without_mark(begin) == begin:
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    lines = "".join(to_json(row) + "\n" for row in rows_of(path))
    write_text(target := scratch / f"{name}{LINES}", lines)
    return target


def is_minimal_pair(path: Path) -> bool:
    """Whether a file's first row is a minimal pair.

    Raises:
        InputError: the first line is not a JSON object.
    """
    return read_rows(path)[0][1].keys() >= MINIMAL_PAIRS.keys()


def rows_config(path: Path, examples: Path | None = None) -> dict[str, Any]:
    """What a task of lm-eval 0.4 is told to read its rows from `path`, and nothing else.

    Args:
        path: the rows that are evaluated.
        examples: those that examples are drawn from, where the task's questions have some.
    """
    files = {SPLIT: str(path.resolve())}
    if examples:
        files[EXAMPLES_SPLIT] = str(examples.resolve())
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "training_split": None,
        "validation_split": None,
        "test_split": SPLIT,
        "fewshot_split": EXAMPLES_SPLIT if examples else None,
    }


def minimal_pair_config(name: str) -> dict[str, Any]:
    """A task of lm-eval 0.4: which of two sentences is the more probable."""
    return {
        "task": name,
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
