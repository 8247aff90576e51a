"""One checkpoint measured by lm-eval's own way, by torch and by JAX, each in its image."""

import json
import random
from pathlib import Path

import pytest

from tests.contract import tiny_tasks
from tests.contract.command import espalier, refused
from tests.contract.maxtext_stages import made, maxtext
from tests.contract.tiny_tasks import Rows, write_tasks
from tests.tiny import tiny_llama

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog")


def phrase(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


TASKS: dict[str, Rows] = {
    **tiny_tasks.TASKS,
    # Of several windows, none of which is another's: see eval/README.md for what hf makes of that.
    "wikitext": [{"page": phrase(random.Random(0), 300)}, {"page": "jumps over the lazy dog"}],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers differ, and rows of tasks."""
    store = tmp_path_factory.mktemp("store")
    tiny_llama(store / "tiny", initializer_range=0.3)
    (store / "text.txt").write_text(phrase(random.Random(1), 200))
    write_tasks(store / "rows", TASKS)
    return store


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_backends_give_one_result(store: Path) -> None:
    maxtext()
    words = ("eval", f"CKPT={store / 'tiny'}", f"TASK_DATA={store / 'rows'}", "LOG_SAMPLES=1")
    words = (*words, f"DATA={store / 'text.txt'}", "SEQLEN=24")
    found = {}
    for backend, runtime in (("hf", "inside"), ("torch", "inside"), ("jax", "local")):
        place = made(store, *words, f"BACKEND={backend}", f"RUNTIME={runtime}", f"NAME={backend}")
        results = json.loads((place / "results.json").read_text())
        assert results["config"]["backend"] == backend
        found[backend] = {
            (task, metric): value
            for task, metrics in results["results"].items()
            for metric, value in metrics.items()
            if isinstance(value, float)
        }
        assert results["task_hashes"].keys() == {"perplexity/text", *TASKS}
    assert {task for task, _ in found["hf"]} == {"perplexity/text", *TASKS}
    for backend in ("torch", "jax"):
        assert found[backend] == pytest.approx(found["hf"], rel=1e-4), backend
        told = espalier(store, "compare-evals", "A=tiny/hf", f"B=tiny/{backend}")
        assert told.returncode == 0, told.stderr
        lines = [line for line in told.stdout.splitlines() if "│" in line and "." in line]
        assert lines
        assert all("nothing differs" in line for line in lines), told.stdout
    assert (store / "cache" / "xla").is_dir()
    words = (*words, "BACKEND=jax", "NAME=jax", "BATCH=2")  # speed alone: done already
    assert made(store, *words) == store / "evals" / "tiny" / "jax"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("TASK_DATA={}", "DTYPE=float16"), "DTYPE"),
        (("TASK_DATA={}", "LEGACY=1"), "BACKEND"),
    ],
)
def test_what_jax_does_not_measure_is_refused_at_once(
    store: Path, words: tuple[str, ...], why: str
) -> None:
    given = [word.format(store / "rows") for word in words]
    refused(espalier(store, "eval", f"CKPT={store / 'tiny'}", "BACKEND=jax", *given), 2, why)
