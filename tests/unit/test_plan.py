"""Plans as values: what is asked for twice, orders, circles, many arms, and plans as files."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.discovery import stage_named
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.commands.comparison import REPORT, compare_harnesses
from espalier.host.commands.evaluation import evaluate
from espalier.host.commands.pipeline import Pipeline
from espalier.host.commands.pruning import PruningCommand
from espalier.host.commands.sources import model_named
from espalier.host.commands.training import TrainingCommand
from espalier.host.draft import Draft, draw_up
from espalier.host.execution import Executor
from espalier.host.fit import Fit
from espalier.host.plan import Plan, Request, Step
from espalier.host.runners.run import PlanRun
from espalier.host.runners.show import Show
from espalier.host.runners.submit import Submit
from espalier.host.runtimes.choice import choose_runtime, fetching_runtime
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.runtimes.slurm import submission
from espalier.host.runtimes.slurm.job import Job
from espalier.host.saved_plan import read_plan, to_text
from espalier.host.settings import Settings
from tests.tiny import SHAPE

BLANK = Stage("blank", "make", "data", "eval", Parameters, "nowhere:run", "", {"first": False})


def request(name: str, *inputs: Path) -> Request:
    """A stage that makes data/<name> of what it is given."""
    return Request(BLANK, Parameters(), {str(n): path for n, path in enumerate(inputs)}, name)


def plan_of(root: Path, needs: dict[str, list[str]], *asked: str) -> Plan:
    requests = {
        root / "data" / name: request(name, *(root / "data" / other for other in others))
        for name, others in needs.items()
    }
    outputs = tuple(root / "data" / name for name in asked or needs)
    return Plan(requests, (Step("all", outputs),), outputs[-1])


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Draft(Store(tmp_path / "store"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model as far as a plan looks at it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **SHAPE}))
    return folder


def test_what_is_asked_for_twice_is_made_once(draft: Draft) -> None:
    first, second = (model_named(draft, "sapling") for _ in range(2))
    assert first == second
    assert [path.name for path in draft.requests] == ["pydoc", "sapling"]


def test_two_results_of_one_name_are_refused(draft: Draft, model: Path) -> None:
    magnitude, wanda = stage_named("magnitude"), stage_named("wanda")
    draft.make(magnitude, {"SPARSITY": "0.5"}, {"model": model}, "same")
    with pytest.raises(InputError, match=r"SPARSITY 0\.5 and 0\.6; give one of them another NAME"):
        draft.make(magnitude, {"SPARSITY": "0.6"}, {"model": model}, "same")
    with pytest.raises(InputError, match="of magnitude and of wanda"):
        draft.make(wanda, {}, {"model": model}, "same")
    with pytest.raises(InputError, match=f"MODEL {model} and None"):
        draft.make(magnitude, {"SPARSITY": "0.5"}, {}, "same")


def test_a_circle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data/a needs .*data/b needs .*data/a; give one of"):
        plan_of(tmp_path, {"a": ["b"], "b": ["a"]})
    with pytest.raises(InputError, match="data/a needs"):
        plan_of(tmp_path, {"a": ["a"]})


@given(st.data())
def test_everything_comes_after_what_it_needs(data: st.DataObject) -> None:
    """Of graphs of any shape, stated in any order: what is asked for and no more, each once."""
    names = [str(number) for number in range(data.draw(st.integers(1, 8)))]
    needs = {
        name: data.draw(st.lists(st.sampled_from(names[:place]), unique=True)) if place else []
        for place, name in enumerate(names)
    }
    shuffled = data.draw(st.permutations(names))
    asked = data.draw(st.lists(st.sampled_from(names), min_size=1))
    plan = plan_of(Path("store"), {name: needs[name] for name in shuffled}, *asked)
    order = [path.name for path in plan.order(plan.steps[0].outputs)]

    def behind(name: str) -> set[str]:
        return {name}.union(*map(behind, needs[name]))

    assert len(order) == len(set(order))
    assert set(order) == set().union(*map(behind, asked))
    assert all(order.index(other) < order.index(name) for name in order for other in needs[name])


def test_a_file_inside_a_result_needs_the_result(tmp_path: Path) -> None:
    grown, file = tmp_path / "data" / "grown", tmp_path / "data" / "grown" / "config.json"
    requests = {tmp_path / "data" / "scratch": request("scratch", file), grown: request("grown")}
    plan = Plan(requests, (), grown)
    assert plan.needs(tmp_path / "data" / "scratch") == [grown]


def study(draft: Draft, parent: str, train: bool = True) -> Path:
    """Methods at sparsities, each trained to one budget and evaluated by two suites."""
    for method in ("magnitude", "wanda"):
        for sparsity in ("0.5", "0.6"):
            words = {"MODEL": parent, "SPARSITY": sparsity}
            before, pruned = PruningCommand.parse(method, words).add(draft)
            draft.step("prune", [pruned])
            arm = pruned
            if train:
                words = {"CKPT": str(pruned), "TOKENS": "1M"}
                arm = TrainingCommand.parse(stage_named("train-gpu"), words).add(draft)
                draft.step("train", [arm])
            for suite in ("quick", "perplexity"):
                pair = [evaluate(draft, model, {"SUITE": suite}) for model in (before, arm)]
                draft.step("eval", pair, tables=[(pair[0], pair[1])])
    return arm


class Recorder:
    """Stands for the executor: writes down what it is asked for."""

    def __init__(self, settings: Settings, lacks: str = "") -> None:
        self.settings, self.lacks = settings, lacks
        self.store = Store(settings.store)
        self.made: list[str] = []

    def require_mountable(self, plan: Plan) -> None:
        """Asked before anything is made."""
        assert self.made == []

    def execute(self, request: Request, renew_before: float | None = None) -> Path:
        if request.stage.name == self.lacks:
            raise EnvironmentFailure("There is no network.")
        self.made.append(f"{request.stage.name} {request.name}")
        return self.store.path(request.stage.section, request.name)


def recorded(settings: Settings, lacks: str = "") -> tuple[PlanRun, list[str]]:
    recorder = Recorder(settings, lacks)
    return PlanRun(recorder), recorder.made  # type: ignore[arg-type]


def test_many_arms_share_what_they_have_in_common(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.host.runners.run.print_report", lambda *given: None)
    plan = draft.plan(study(draft, "sapling"))
    run, made = recorded(Settings(store=draft.store.root))
    assert run.finish(plan) == str(plan.result)
    assert len(made) == len(set(made)) == len(plan.requests)
    stages = [name.partition(" ")[0] for name in made]
    counts = {name: stages.count(name) for name in stages}
    arms = {"magnitude": 2, "wanda": 2, "train-gpu": 4, "eval": 2 + 8}
    assert counts == {"corpus": 1, "grow": 1, "data": 1, **arms}
    assert made[:3] == ["corpus pydoc", "grow sapling", "magnitude sapling-magnitude-0.5"]
    # What a model is tested on follows from where it comes from, made or not.
    assert "fetch-data" not in counts


def test_what_is_forced_is_what_a_command_makes_not_what_it_reads(draft: Draft) -> None:
    draft.asked = 7.0
    plan = draft.plan(study(draft, "sapling"))
    forced = {r.stage.verb for path, r in plan.requests.items() if plan.renew_before(path) == 7.0}
    spared = {r.stage.verb for path, r in plan.requests.items() if plan.renew_before(path) is None}
    assert forced == {"prune", "train", "eval"}
    assert spared == {"grow", "corpus", "data"}
    grown = model_named(draft, "sapling")
    fetched = Plan(plan.requests, (Step("fetch", (grown,)),), grown, asked=7.0)
    assert fetched.renew_before(grown) == 7.0


def test_what_is_settled_for_a_plan_is_not_forced_for_being_read(tmp_path: Path) -> None:
    store, seen = Store(tmp_path), []
    command = PruningCommand.parse(
        "shortgpt", {"MODEL": "org/unlisted", "LAYERS": "1", "STEPS": "2"}
    )

    def settle(plan: Plan, path: Path) -> None:
        seen.append(plan.renew_before(path))
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"model_type": "llama", **SHAPE}))

    plan, _ = draw_up(lambda draft: command.add(draft)[1], store, settle, asked=7.0)
    assert seen == [None]
    assert plan.renew_before(plan.result) == 7.0


def test_a_forced_job_makes_what_was_there_when_it_was_asked_for(
    draft: Draft, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back into the queue it goes on; it does not begin again with what it has made."""
    command = Pipeline.parse("magnitude", {"MODEL": str(model)})
    plan = replace(draft.plan(command.add(draft)), asked=1000.0)
    settings = slurm(draft.store.root, FORCE=True)
    manifest = draft.store.root / "checkpoints" / "model-magnitude-0.5" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    for age, titles in ((999, ["prune-magnitude", "eval"]), (1001, ["eval"])):
        os.utime(manifest, (age, age))
        jobs = jobs_of(plan, settings, monkeypatch)
        assert [job.step for job in jobs] == titles
        assert read_plan(jobs[0].plan, draft.store).asked == 1000.0


def test_a_model_is_fetched_again_from_where_it_came(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = draft.store.root / "models"
    for name in ("llama2-7b", "own", "adopted"):
        (there / name).mkdir(parents=True)
        (there / name / "manifest.json").touch()
    records = {
        "own": SimpleNamespace(stage="fetch", parameters={"model": "org/own", "revision": "v1"}),
        "adopted": SimpleNamespace(stage="adopt", parameters={}),
        "llama2-7b": SimpleNamespace(stage="fetch", parameters={}),
    }
    for place in ("draft", "commands.sources"):
        monkeypatch.setattr(f"espalier.host.{place}.read_manifest", lambda path: records[path.name])
    assert model_named(draft, "own") == there / "own"
    assert draft.requests == {}
    asked = draft.requests[model_named(draft, "own", anew=True)].parameters.model_dump()
    assert asked == {"model": "org/own", "revision": "v1"}
    assert model_named(draft, "llama2-7b", anew=True) in draft.requests
    with pytest.raises(InputError, match="MODEL=adopted was not fetched but made by adopt"):
        model_named(draft, "adopted", anew=True)


def test_a_maxtext_checkpoint_stands_for_what_stock_loaders_read(draft: Draft, model: Path) -> None:
    stacked = draft.make(stage_named("to-maxtext"), {}, {"model": model}, "stacked")
    for name in ("stacked", str(stacked)):
        found = model_named(draft, name)
        assert found == draft.store.path("checkpoints", "stacked-to-hf")
    wanted = draft.requests[found]
    assert (wanted.stage.name, wanted.inputs) == ("to-hf", {"maxtext": stacked})
    assert draft.config(found) == draft.config(stacked) == draft.config(model)
    measured = draft.requests[evaluate(draft, found, {"BACKEND": "jax", "DATA": "pydoc"})]
    assert (measured.stage.name, measured.inputs["model"]) == ("eval-jax", found)


@pytest.mark.parametrize("variable", ["MODEL", "CKPT"])
@pytest.mark.parametrize("value", ["./nowhere", "unheard-of"])
def test_a_refusal_names_the_variable_that_was_given(
    draft: Draft, model: Path, variable: str, value: str
) -> None:
    says = f"^{variable}={re.escape(value)} "
    given = {variable: value}
    with pytest.raises(InputError, match=says):
        PruningCommand.parse("wanda", given).add(draft)
    trainer = stage_named("train-gpu")
    with pytest.raises(InputError, match=says):
        TrainingCommand.parse(trainer, {**given, "TOKENS": "1M"}).add(draft)
    for other in ("TEACHER", "ARCH", "TOKENIZER"):
        words = {"CKPT": str(model)} if other == "TEACHER" else {"ARCH": str(model)}
        command = TrainingCommand.parse(trainer, {**words, other: value, "TOKENS": "1M"})
        with pytest.raises(InputError, match=f"^{other}={re.escape(value)} "):
            command.add(draft)


def test_what_a_recovery_is_trained_on(draft: Draft, model: Path, tmp_path: Path) -> None:
    """A file, token data or a text of the store, or what is usual for the model."""
    stage, data = stage_named("recover"), draft.store.root / "data"
    rows = tmp_path / "rows.json"
    rows.write_text("[]")
    (data / "packed").mkdir(parents=True)
    (data / "packed" / "tokens.json").touch()
    for name, found in ((str(rows), rows), ("packed", data / "packed")):
        words = {"CKPT": str(model), "DATA": name, "NAME": found.name}
        made = TrainingCommand.parse(stage, words).add(draft)
        assert draft.requests[made].inputs == {"model": model, "examples": found}
    usual = TrainingCommand.parse(stage, {"CKPT": str(model), "NAME": "usual"}).add(draft)
    fetched = draft.requests[usual].inputs["examples"]
    assert draft.requests[fetched].parameters.model_dump()["data"] == "alpaca"
    grown = TrainingCommand.parse(stage, {"NAME": "grown"}).add(draft)
    assert draft.requests[draft.requests[grown].inputs["examples"]].stage.name == "corpus"
    with pytest.raises(InputError, match="ARCH is not used: recover needs weights"):
        TrainingCommand.parse(stage, {"ARCH": str(model)})


def test_printing_a_plan_makes_nothing(
    tmp_path: Path, draft: Draft, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(store=draft.store.root, dry_run=True)
    plan = draft.plan(study(draft, "sapling"))
    Show(Executor(draft.store, InsideRuntime(), settings)).finish(plan)
    printed = capsys.readouterr().out
    assert printed.count("(would run)") == 1  # corpus; all others wait for something
    assert printed.count("(waits for ") == len(plan.requests) - 1
    assert list(tmp_path.iterdir()) == []


def jobs_of(plan: Plan, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What would go to Slurm."""
    found: list[Job] = []

    def submit(jobs: list[Job]) -> list[str]:
        found.extend(jobs)
        return [str(number) for number in range(len(jobs))]

    monkeypatch.setattr("espalier.host.runners.submit.submit", submit)
    monkeypatch.setattr(Executor, "make_ready", lambda self, stage: None)
    store, runtime = Store(settings.store), choose_runtime(settings)
    executor = Executor(store, runtime, settings, fetching_runtime(settings))
    Submit(executor, recorded(settings)[0]).finish(plan)
    return found


def slurm(root: Path, **others: object) -> Settings:
    return Settings.model_validate({"STORE": root, "RUNTIME": "slurm", **others})


def test_each_step_of_a_study_is_a_job_after_those_that_it_needs(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft.step("grow", [model_named(draft, "sapling")])
    plan = draft.plan(study(draft, "sapling"))
    jobs = jobs_of(plan, slurm(draft.store.root, NODES=2), monkeypatch)
    after = {job.step: set(job.after) for job in jobs}
    assert after["grow"] == set()
    # Arms wait for what they share, and for nothing of each other that they do not need.
    assert after["prune"] == after["prune-2"] == {"grow"}
    assert after["train"] == {"prune"}
    assert after["train-2"] == {"train", "prune-2"}  # the first packs the text for all
    assert after["eval"] == {"train"}
    assert [job.step for job in jobs if job.trains] == ["train", "train-2", "train-3", "train-4"]
    file = jobs[0].plan
    assert read_plan(file, draft.store) == plan


@pytest.mark.parametrize(
    ("words", "titles"),
    [
        ({}, ["prune-magnitude", "eval"]),
        ({"SUITE": "none"}, ["prune-magnitude"]),
        ({"TRAIN": "gpu"}, ["prune-magnitude", "train-gpu", "eval"]),
        ({"TRAIN": "gpu", "SUITE": "none"}, ["prune-magnitude", "train-gpu"]),
        ({"TRAIN": "recover"}, ["prune-magnitude", "recover", "eval"]),
    ],
)
def test_a_pipeline_is_a_job_each_for_pruning_training_and_evaluating(
    draft: Draft,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: dict[str, str],
    titles: list[str],
) -> None:
    (rows := draft.store.root.parent / "rows").mkdir()
    (rows / "tokens.json").touch()
    training = {"TOKENS": "1M", "TRAIN_DATA": str(rows)} if "TRAIN" in words else {}
    command = Pipeline.parse("magnitude", {"MODEL": str(model), **words, **training})
    plan = draft.plan(command.add(draft))
    settings = slurm(draft.store.root, NODES=2)
    jobs = jobs_of(plan, settings, monkeypatch)
    assert [job.step for job in jobs] == titles
    assert [job.trains for job in jobs] == [title == "train-gpu" for title in titles]
    assert [job.after for job in jobs] == [(), *((title,) for title in titles[:-1])]
    pruned = draft.store.root / "checkpoints" / "model-magnitude-0.5"
    pruned.mkdir(parents=True)
    (pruned / "manifest.json").touch()
    left = jobs_of(plan, settings, monkeypatch)
    assert [job.step for job in left] == titles[1:]
    assert [job.after for job in left[:1]] == [()] * len(titles[1:2])


def test_what_slurm_refuses_leaves_no_plan(
    draft: Draft, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = draft.plan(study(draft, str(model), train=False))

    def submit(jobs: list[Job]) -> list[str]:
        assert jobs[0].plan.is_file()
        raise InputError("Slurm refuses it.")

    monkeypatch.setattr("espalier.host.runners.submit.submit", submit)
    monkeypatch.setattr(Executor, "make_ready", lambda self, stage: None)
    settings = slurm(draft.store.root)
    executor = Executor(draft.store, choose_runtime(settings), settings)
    with pytest.raises(InputError, match="Slurm refuses it"):
        Submit(executor, recorded(settings)[0]).finish(plan)
    assert not list(draft.store.root.glob("slurm/*"))


def test_jobs_are_told_by_number_what_they_wait_for() -> None:
    waits = submission.dependency(["7", "8"])
    assert waits == ["--dependency=afterok:7:8", "--kill-on-invalid-dep=yes"]


def test_a_saved_plan_is_the_plan_wherever_the_store_is(draft: Draft, tmp_path: Path) -> None:
    plan = draft.plan(study(draft, "sapling"))
    file, moved = tmp_path / "plan.json", Store(tmp_path / "moved")
    file.write_text(to_text(plan, draft.store))
    assert read_plan(file, draft.store) == plan
    elsewhere = read_plan(file, moved)
    assert {path.relative_to(moved.root) for path in elsewhere.requests} == {
        path.relative_to(draft.store.root) for path in plan.requests
    }
    alone = elsewhere.only("eval-2")
    assert len(alone.steps) == 1
    assert {request.stage.verb for request in alone.requests.values()} >= {"grow", "prune", "eval"}
    with pytest.raises(InputError, match="STEP=nothing is not in the plan; there are prune, train"):
        plan.only("nothing")


def test_a_step_has_its_own_table(
    draft: Draft, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is carried out here or, of a saved plan, elsewhere."""
    (rows := tmp_path / "rows").mkdir()
    given = {"TASK_DATA": str(rows), "TASKS": "arc_easy"}
    plan = draft.plan(compare_harnesses(draft, model, given))
    (file := tmp_path / "plan.json").write_text(to_text(plan, draft.store))
    told: list[Any] = []
    monkeypatch.setattr("espalier.host.runners.run.print_report", lambda *given: told.append(given))
    for one in (plan, read_plan(file, draft.store)):
        run, made = recorded(Settings(store=draft.store.root))
        run.finish(one)
        names = [f"{model.name}/{label}tasks-samples" for label in ("legacy-", "")]
        assert made == [f"eval-legacy {names[0]}", f"eval {names[1]}"]
    results = tuple(draft.store.root / "evals" / name for name in names)
    assert told == [(REPORT, results)] * 2


@pytest.mark.parametrize("text", ["", "{}", '{"requests": [], "steps": [], "result": 1}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(InputError, match="cannot be read as a plan: it does not hold one"):
        read_plan(file, Store(tmp_path))
    with pytest.raises(InputError, match="cannot be read as a plan: No such file"):
        read_plan(tmp_path / "absent.json", Store(tmp_path))


def settled_by(
    build: Callable[[Draft], Path], store: Store, make: Callable[[Path], None]
) -> tuple[Plan, list[Path]]:
    """The plan, and what had to be made before it could be stated."""
    asked: list[Path] = []

    def settle(plan: Plan, path: Path) -> None:
        assert plan.order([path]) == [path]
        asked.append(path)
        make(path)

    return draw_up(build, store, settle)[0], asked


def test_a_plan_goes_on_once_the_shape_that_it_lacks_is_there(tmp_path: Path) -> None:
    """A model that models.toml does not list is fetched before its pruning is planned in steps."""
    command = PruningCommand.parse(
        "shortgpt", {"MODEL": "org/unlisted", "LAYERS": "1", "STEPS": "2"}
    )
    store = Store(tmp_path)

    def fetched(path: Path) -> None:
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"model_type": "llama", **SHAPE}))

    plan, asked = settled_by(lambda draft: command.add(draft)[1], store, fetched)
    assert asked == [tmp_path / "models" / "unlisted"]
    pruned = [path.name for path in plan.requests if path.parent.name == "checkpoints"]
    assert pruned == ["unlisted-shortgpt-1-steps2-step1of2", "unlisted-shortgpt-1-steps2"]
    shapes = [dict(request.shape) for request in plan.requests.values()]
    layers = [shape.get("num_hidden_layers") for shape in shapes if shape]
    assert layers == [3, 3, 2, 2]  # the parent is scored and pruned, then what is left of it
    with pytest.raises(InputError, match=r"need the model's config\.json; fetch it first"):
        settled_by(lambda draft: command.add(draft)[1], Store(tmp_path / "new"), lambda path: None)


def test_a_listed_shape_is_enough(tmp_path: Path) -> None:
    command = PruningCommand.parse("minitron", {"MODEL": "llama3.1-8b", "PARAMS": "4B"})
    plan, asked = settled_by(lambda draft: command.add(draft)[1], Store(tmp_path), Path.touch)
    assert asked == []
    assert next(iter(plan.requests)) == tmp_path / "models" / "llama3.1-8b"


def test_an_evaluation_that_nobody_asked_for_may_lack_its_text(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, fails in (({}, False), ({"SUITE": "quick"}, True)):
        draft = Draft(Store(tmp_path / "store"))
        command = Pipeline.parse("magnitude", {"MODEL": str(model), **words})
        plan = draft.plan(command.add(draft))
        run, made = recorded(Settings(store=draft.store.root), lacks="fetch-data")
        if fails:
            with pytest.raises(EnvironmentFailure):
                run.finish(plan)
        else:
            assert run.finish(plan).endswith("checkpoints/model-magnitude-0.5")
            said = " ".join(capsys.readouterr().err.split())
            assert said.startswith("Not evaluated. There is no network. Try make eval CKPT=model-")
        assert made == ["magnitude model-magnitude-0.5"]


def test_a_text_that_was_asked_for_comes_before_the_pruning(draft: Draft, model: Path) -> None:
    words = {"MODEL": str(model), "DATA": "wikitext2", "CALIBRATION": "c4"}
    command = Pipeline.parse("wanda", words)
    plan = draft.plan(command.add(draft))
    order = [path.name for path in plan.order(plan.steps[0].outputs)]
    assert order == ["wikitext2", "c4", "model-wanda-0.5"]


@pytest.mark.parametrize("trainer", ["train-gpu", "train-tpu"])
def test_a_training_from_scratch_is_estimated_by_its_architecture(
    draft: Draft, model: Path, trainer: str
) -> None:
    """Listed and not there yet, or given as a file."""
    stage, file = stage_named(trainer), model / "config.json"
    rows = file.parent / "rows"
    rows.mkdir()
    (rows / "tokens.json").touch()
    for words in ({"ARCH": "sapling"}, {"ARCH": str(file), "TOKENIZER": "sapling"}):
        given = {**words, "TOKENS": "1M", "DATA": str(rows)}
        target = TrainingCommand.parse(stage, given).add(draft)
        made = draft.requests[target]
        assert Fit.of(stage, made.parameters, made.inputs, made.shape).estimate is not None
