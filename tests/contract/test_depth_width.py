"""ShortGPT and Minitron as a user runs them, with the packages of their own image."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import read_manifest
from espalier.contract.pruned import Uniform
from espalier.data.task_rows import minimal_pair_config, rows_config
from espalier.models.tokenizer import load_tokenizer
from tests.contract.command import (
    differing,
    espalier,
    refused,
    tree,
    without_times,
)
from tests.contract.shaped import check_loads, pictures, pruned
from tests.contract.waiting import interrupted
from tests.tiny import tiny_llama, token_rows

pytestmark = pytest.mark.minitron


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "tokens.safetensors")


def test_shortgpt(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = pruned(tmp_path, "shortgpt", model, tokens, "LAYERS=2")
    assert checkpoint == tmp_path / "checkpoints" / "tiny-shortgpt-2"
    check_loads(checkpoint, num_hidden_layers=2)
    scores = tmp_path / "scores" / "tiny" / "shortgpt-tokens-128"
    influence = json.loads((scores / "scores.json").read_text())["block_influence"]
    manifest = read_manifest(checkpoint)
    assert isinstance(manifest.pruning, Uniform)
    assert manifest.pruning.dropped_layers == (influence.index(min(influence)),)
    assert manifest.pruning.structure == "depth"
    assert manifest.inputs["scores"].name == "scores/tiny/shortgpt-tokens-128"
    assert (
        pictures(scores) == pictures(checkpoint) == {"block_influence.png", "block_influence.svg"}
    )


def test_depth_from_one_measurement(tmp_path: Path, model: Path, tokens: Path) -> None:
    """Scores of several block sizes serve several prunings; none of them measures again."""
    scored = espalier(
        tmp_path, "score-minitron-depth", f"MODEL={model}", f"CALIBRATION={tokens}", "LAYERS=2,1"
    )
    assert scored.returncode == 0, scored.stderr
    scores = Path(scored.stdout.strip())
    assert scores == tmp_path / "scores" / "tiny" / "minitron-depth-tokens-ppl-2-1"
    content = json.loads((scores / "scores.json").read_text())
    assert {size: len(by) for size, by in content["by_first_removed"].items()} == {"1": 3, "2": 2}
    for words, left in ((("LAYERS=1",), 1), (("LAYERS=2", "CHOICE=best"), 2)):
        given = (f"MODEL={model}", "SCORES=tiny/minitron-depth-tokens-ppl-2-1", "SUITE=none")
        done = espalier(tmp_path, "prune-minitron-depth", *given, *words)
        assert done.returncode == 0, done.stderr
        check_loads(Path(done.stdout.strip()), num_hidden_layers=left)
    assert [path.name for path in (tmp_path / "scores" / "tiny").iterdir()] == [scores.name]
    single = espalier(tmp_path, "prune-minitron-depth", *given, "LAYERS=1", "CONTIGUOUS=0")
    assert single.returncode == 0, single.stderr
    manifest = read_manifest(Path(single.stdout.strip()))
    one, unpruned = content["by_first_removed"]["1"], content["unpruned"]
    cheapest = sorted(range(3), key=lambda layer: abs(one[layer] - unpruned))[:2]
    assert isinstance(manifest.pruning, Uniform)
    assert manifest.pruning.dropped_layers == tuple(sorted(cheapest))


def rows_of_pairs(folder: Path, count: int = 40) -> Path:
    """Minimal pairs of words that the tiny tokenizer cuts to several lengths."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "tree", "walnut"]
    draw = random.Random(0)
    lines = []
    for _ in range(count):
        good, bad = ([draw.choice(words) for _ in range(draw.randint(2, 9))] for _ in range(2))
        row = {"sentence_good": " ".join(good), "sentence_bad": " ".join(bad)}
        lines.append(json.dumps(row) + "\n")
    folder.mkdir()
    (folder / "order.jsonl").write_text("".join(lines))
    return folder


def test_depth_by_a_tasks_accuracy(tmp_path: Path) -> None:
    """What the walk says of a cut is what lm-eval's own model says of the pruned checkpoint."""
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    model = tiny_llama(tmp_path / "tiny", num_hidden_layers=4, initializer_range=0.3)
    rows = rows_of_pairs(tmp_path / "rows")
    words = ("SCORE=order", "LAYERS=2", "CHOICE=best", "SUITE=none")
    done = espalier(
        tmp_path / "store", "prune-minitron-depth", f"MODEL={model}", f"TASK_DATA={rows}", *words
    )
    assert done.returncode == 0, done.stderr
    checkpoint = Path(done.stdout.strip())
    assert not (tmp_path / "store" / "data").exists()  # no text was needed
    scores = tmp_path / "store" / "scores" / "tiny" / "minitron-depth-order-2"
    content = json.loads((scores / "scores.json").read_text())
    by_first = content["by_first_removed"]["2"]
    assert content["data"]["rows"] == 40
    pruning = read_manifest(checkpoint).pruning
    assert isinstance(pruning, Uniform)
    dropped = pruning.dropped_layers
    assert by_first[dropped[0]] == max(by_first)

    def accuracy(directory: Path) -> float:
        config = minimal_pair_config("order") | rows_config(rows / "order.jsonl")
        network = AutoModelForCausalLM.from_pretrained(directory).eval()
        lm = HFLM(pretrained=network, tokenizer=load_tokenizer(model), batch_size=1)
        task = ConfigurableTask(config=config)
        found: Any = simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0)
        return float(found["results"]["order"]["acc,none"])

    assert accuracy(model) == pytest.approx(content["unpruned"])
    assert accuracy(checkpoint) == pytest.approx(by_first[dropped[0]])


def test_a_task_that_is_none(tmp_path: Path, model: Path) -> None:
    words = (f"MODEL={model}", "LAYERS=2", "SUITE=none")
    done = espalier(tmp_path, "prune-minitron-depth", *words, "SCORE=winogrand")
    refused(done, 2, "SCORE=winogrand is not a task of lm-eval 0.4.9 (did you mean winogrande")
    done = espalier(tmp_path, "prune-minitron-depth", *words, "SCORE=winogrande")
    refused(done, 2, "SCORE=winogrande needs its rows: give TASK_DATA=")
    assert not list((tmp_path / "scores" / "tiny").iterdir())


def test_width_in_order_of_importance(tmp_path: Path, model: Path, tokens: Path) -> None:
    words = ("HIDDEN=24", "FFN=40", "HEADS=2", "KV_HEADS=1")
    checkpoint = pruned(tmp_path, "minitron-width", model, tokens, *words)
    sizes = {"hidden_size": 24, "intermediate_size": 40}
    check_loads(checkpoint, **sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    (scores,) = (tmp_path / "scores" / "tiny").iterdir()
    content = json.loads((scores / "scores.json").read_text())
    pruning = read_manifest(checkpoint).pruning
    assert isinstance(pruning, Uniform)
    kept = pruning.kept
    assert kept.intermediate is not None
    assert kept.heads is not None
    ranked = sorted(range(32), key=lambda channel: -content["hidden"][channel])
    assert kept.hidden == tuple(ranked[:24])
    assert [len(neurons) for neurons in kept.intermediate] == [40, 40, 40]
    assert [len(heads) for heads in kept.heads] == [2, 2, 2]
    assert pictures(scores) == pictures(checkpoint) == {"importance.png", "importance.svg"}


def test_depth_and_width_in_one_command(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = pruned(tmp_path, "minitron", model, tokens, "LAYERS=2", "FFN=24")
    assert checkpoint.name == "tiny-minitron-2-f24"
    check_loads(checkpoint, num_hidden_layers=2, intermediate_size=24)
    pruning = read_manifest(checkpoint).pruning
    assert isinstance(pruning, Uniform)
    assert pruning.structure == "depth+width"
    assert len(pictures(checkpoint)) == 4


def test_steps_measure_what_the_step_before_left(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = pruned(tmp_path, "shortgpt", model, tokens, "LAYERS=1", "STEPS=2")
    check_loads(checkpoint, num_hidden_layers=1)
    manifest = read_manifest(checkpoint)
    step = "tiny-shortgpt-1-steps2-step1of2"
    assert manifest.inputs["model"].name == f"checkpoints/{step}"
    assert manifest.inputs["scores"].name == f"scores/{step}/shortgpt-tokens-128"
    lineage = espalier(tmp_path, "show", f"CKPT={checkpoint.name}").stdout
    assert lineage.count(f"model checkpoints/{step}") == 2
    assert lineage.count("(as above)") == 1
    assert "depth: " in lineage


def test_a_number_of_parameters(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = pruned(tmp_path, "minitron", model, tokens, "PARAMS=18K")
    found = read_manifest(checkpoint).model or {}
    assert found["parameters"] == pytest.approx(18_000, rel=0.05)


def test_batches_and_runs_give_the_same_bytes(tmp_path: Path, model: Path, tokens: Path) -> None:
    first = pruned(tmp_path / "a", "minitron", model, tokens, "LAYERS=2", "HIDDEN=24")
    again = pruned(tmp_path / "b", "minitron", model, tokens, "LAYERS=2", "HIDDEN=24", cold=True)
    assert not differing(*(without_times(tree(place)) for place in (first, again)))


def test_scores_of_another_model_are_refused(tmp_path: Path, model: Path, tokens: Path) -> None:
    pruned(tmp_path, "shortgpt", model, tokens, "LAYERS=2")
    other = tiny_llama(tmp_path / "other", num_hidden_layers=4)
    words = (f"MODEL={other}", "SCORES=tiny/shortgpt-tokens-128", "SUITE=none", "LAYERS=2")
    refused(espalier(tmp_path, "prune-shortgpt", *words), 2, "another model than other")
    words = (f"MODEL={model}", "SCORES=tiny/shortgpt-tokens-128", "SUITE=none", "FFN=24")
    refused(
        espalier(tmp_path, "prune-minitron-width", *words), 2, "none made by score-minitron-width"
    )


def test_scores_of_other_blocks_are_refused(tmp_path: Path, model: Path, tokens: Path) -> None:
    done = espalier(
        tmp_path, "score-minitron-depth", f"MODEL={model}", f"CALIBRATION={tokens}", "LAYERS=2"
    )
    assert done.returncode == 0, done.stderr
    words = (f"MODEL={model}", f"SCORES={done.stdout.strip()}", "SUITE=none", "LAYERS=1")
    refused(espalier(tmp_path, "prune-minitron-depth", *words), 2, "blocks of 1 layers and 2 are")
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_text_that_is_too_short(tmp_path: Path, model: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("the quick brown fox")
    done = espalier(tmp_path, "prune-shortgpt", f"MODEL={model}", f"CALIBRATION={text}", "LAYERS=2")
    refused(done, 2, "is shorter than SEQLEN=128")
    assert not list((tmp_path / "scores" / "tiny").iterdir())


def test_an_interrupted_search_goes_on(tmp_path: Path, tokens: Path) -> None:
    """Ctrl-C in the middle ends in 75, and the same command gives the bytes of a run at once."""
    model = tiny_llama(tmp_path / "deep", num_hidden_layers=12)
    rows = token_rows(tmp_path / "rows.safetensors", rows=512, width=128)
    words = ("score-minitron-depth", f"MODEL={model}", f"CALIBRATION={rows}", "LAYERS=11")
    words = (*words, "SAMPLES=512")
    interrupted(tmp_path / "store", words, "scores/deep/*/.run/scratch/chunks.json")
    whole = espalier(tmp_path / "whole", *words)
    again = espalier(tmp_path / "store", *words)
    assert again.returncode == whole.returncode == 0, again.stderr
    one, two = (without_times(tree(Path(done.stdout.strip()))) for done in (whole, again))
    assert {"scores.json", "depth.png", "depth.svg"} <= one.keys()
    assert not differing(one, two)
