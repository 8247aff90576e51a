"""One task of lm-eval 0.4.9 as a score of many variants of one model.

The task's questions are put once, as token ids; each variant's answers go back through lm-eval's
own evaluation. No model is loaded here, and nothing is downloaded.
"""

import difflib
import functools
import glob
import io
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import load_yaml_config

from espalier.data.task_rows import (
    SPLIT,
    as_lines,
    is_minimal_pair,
    minimal_pair_config,
    rows_config,
    task_files,
)
from espalier.data.text import sha256_of_file
from espalier.errors import InputError
from espalier.models.tokenizer import probe_hash

ANSWERED_BY_LIKELIHOOD = ("loglikelihood", "multiple_choice")
RANDOM_SEED, OTHER_SEED = 0, 1234
"""What lm-eval seeds Python, and numpy and the examples, with."""


@dataclass(frozen=True)
class LikelihoodRequest:
    """One continuation to be scored.

    Attributes:
        tokens: of context and continuation; at most one more than the model takes, since the last
            is only predicted. The start is cut off where there are more.
        continuation: how many of the last tokens are the continuation.
    """

    tokens: tuple[int, ...]
    continuation: int


class TaskScore:
    """A task of lm-eval, given its rows.

    Attributes:
        requests: what has to be scored, each once, in a fixed order.
        record: which rows were asked, as a manifest says it.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None,
        tokenizer: Any,
        max_length: int,
        scratch: Path,
        *,
        shots: int = 0,
        limit: int | None = None,
    ) -> None:
        """Put every question of the task.

        Args:
            name: a task of lm-eval's, or any name of a file of minimal pairs.
            folder: holds `<name>.jsonl`; None where no rows are given.
            tokenizer: the model's.
            max_length: how many tokens the model takes.
            scratch: where the rows are cached.
            shots: examples before each row, drawn from the same rows but never the row itself.
            limit: at most so many rows.

        Raises:
            InputError: no such task, one without accuracy or log-likelihoods, or no rows for it.
        """
        path, config = _configuration(name, folder, shots, scratch)
        config["dataset_kwargs"]["cache_dir"] = str(scratch)
        self._name, self._limit = name, limit
        self._recorder = _Recorder(name, tokenizer, max_length)
        with _fitting(name, path), _quiet():
            random.seed(RANDOM_SEED)
            np.random.seed(OTHER_SEED)
            self._task = ConfigurableTask(config=config)
            self._task.set_config("num_fewshot", shots)
            self._task.set_fewshot_seed(OTHER_SEED)
            rows = len(self._task.eval_docs)
            if rows <= shots:
                raise InputError(
                    f"SHOTS={shots} needs {shots + 1} rows or more where {path} has {rows}; "
                    "give fewer."
                )
            self._evaluate()
        self.requests = list(self._recorder.places)
        # From here on lm-eval evaluates these very questions, with their examples.
        self._task.build_all_requests = lambda **_: None
        self.record: dict[str, Any] = {
            "source": path.name,
            "kind": "task rows",
            "rows": min(rows, limit or rows),
            "shots": shots,
            "sha256": sha256_of_file(path),
            "tokenizer_probe": probe_hash(tokenizer),
        }

    def accuracy(self, log_likelihoods: Sequence[float], greedy: Sequence[bool]) -> float:
        """What lm-eval calls `acc,none`.

        Args:
            log_likelihoods: of each request's continuation.
            greedy: whether each of its tokens was the most probable one.
        """
        self._recorder.answers = list(zip(log_likelihoods, greedy, strict=True))
        for instance in self._task.instances:
            instance.resps = []
        with _quiet():
            return float(self._evaluate()["acc,none"])

    def _evaluate(self) -> dict[str, Any]:
        results = lm_eval.evaluate(
            lm=self._recorder,
            task_dict={self._name: self._task},
            limit=self._limit,
            bootstrap_iters=0,
            log_samples=False,
        )
        return dict(results["results"][self._name])


class _Recorder(HFLM):  # type: ignore[misc]
    """lm-eval's causal model with its tokenization, and without a model.

    Attributes:
        places: each request and its place among them.
        answers: by place; while there are none, what is asked is kept.
    """

    def __init__(self, name: str, tokenizer: Any, max_length: int) -> None:
        LM.__init__(self)  # HFLM's own loads a model; what follows are its defaults
        self.tokenizer, self._max_length = tokenizer, max_length
        self.backend, self.add_bos_token, self.custom_prefix_token_id = "causal", False, None
        self.places: dict[LikelihoodRequest, int] = {}
        self.answers: list[tuple[float, bool]] = []
        self._name = name
        self._asked: list[int] = []

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """The answers to lm-eval's questions, in its order."""
        if self.answers:
            return [self.answers[place] for place in self._asked]
        return super().loglikelihood(requests, disable_tqdm)

    def _loglikelihood_tokens(self, requests: Any, *_: Any, **__: Any) -> list[tuple[float, bool]]:
        for (_, text), context, continuation in requests:
            if None in context:
                raise InputError(
                    f"SCORE={self._name}: the answer {text[:40]!r} has nothing before it, where a "
                    "begin or end token has to stand, and the model's tokenizer has neither; name "
                    "its bos_token in tokenizer_config.json."
                )
            if not context or not 0 < len(continuation) <= self.max_length:
                raise InputError(
                    f"SCORE={self._name}: the answer {text[:40]!r} is {len(continuation)} tokens "
                    f"long, where 1 to the model's {self.max_length} after a question can be "
                    "scored; take that row out."
                )
            tokens = (context + continuation)[-(self.max_length + 1) :]
            request = LikelihoodRequest(tuple(tokens), len(continuation))
            self._asked.append(self.places.setdefault(request, len(self.places)))
        return [(0.0, False)] * len(requests)


def _configuration(
    name: str, folder: Path | None, shots: int, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    """The file of the rows, and the task that reads them; a wrong name is told before rows are."""
    rows = None
    if folder and any(folder.glob(f"{glob.escape(name)}.*")):
        rows = as_lines(task_files(folder, [name], "SCORE"), scratch / "lines")[name]
    paired = rows is not None and is_minimal_pair(rows)
    config = minimal_pair_config(name) if paired else _shipped(name)
    if shots and config.get("num_fewshot") == 0:
        raise InputError(f"SCORE={name} is asked without examples; leave SHOTS out.")
    if folder is None:
        raise InputError(f"SCORE={name} needs its rows: give TASK_DATA=<folder of {name}.jsonl>.")
    path = rows or task_files(folder, [name], "SCORE")[name]
    config |= {"custom_dataset": None} | rows_config(path)
    if not (config.get("fewshot_config") or {}).get("samples"):  # examples that the task brings
        config["fewshot_split"] = SPLIT
    return path, config


def _shipped(name: str) -> dict[str, Any]:
    """The configuration of a task of lm-eval's that accuracy by log-likelihoods can be had of."""
    known = _task_manager()
    entry = known.task_index.get(name)
    if entry is None:
        near = " or ".join(difflib.get_close_matches(name, known.all_subtasks))
        raise InputError(
            f"SCORE={name} is not a task of lm-eval 0.4.9"
            + (f" (did you mean {near}?)" if near else "")
            + "; name one, or the file in TASK_DATA of rows with sentence_good and sentence_bad."
        )
    if entry["type"] != "task":
        below = [task for task in known.all_subtasks if task.startswith(f"{name}_")]
        such = f", such as {below[0]}" if below else ""
        raise InputError(f"SCORE={name} is not a single task of rows; name one that is{such}.")
    try:
        config: dict[str, Any] = load_yaml_config(entry["yaml_path"], mode="full")
    except Exception as error:  # noqa: BLE001 - a task's own code imports what it likes
        raise InputError(
            f"SCORE={name} does not work here ({_reason(error)}); name another task."
        ) from None
    kind = config.get("output_type", "generate_until")
    if kind not in ANSWERED_BY_LIKELIHOOD:
        raise InputError(
            f"SCORE={name} is a task of kind {kind}; a score needs one of kind "
            f"{' or '.join(ANSWERED_BY_LIKELIHOOD)}."
        )
    metrics = [str(metric["metric"]) for metric in config.get("metric_list") or []]
    if metrics and "acc" not in metrics:
        raise InputError(
            f"SCORE={name} is measured by {', '.join(metrics)}; a score needs a task with acc."
        )
    return config


@functools.cache
def _task_manager() -> Any:
    """The index of lm-eval's own tasks; it takes seconds, since it reads all their files."""
    with _quiet():
        return TaskManager()


@contextmanager
def _fitting(name: str, path: Path) -> Iterator[None]:
    """A task's own code fails on other rows than its own in any way it likes."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001
        reason = _reason(error.__cause__ or error)
        raise InputError(
            f"{path} does not fit lm-eval's task {name} ({reason}); give the evaluated split's "
            "rows as the hub has them."
        ) from None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, no warnings of lm-eval's: it warns of whatever is not its own command line."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with redirect_stderr(io.StringIO()):
        yield
