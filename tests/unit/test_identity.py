"""When a result is what was asked for: by parameters and inputs, whatever made it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from espalier.contract.discovery import stage_named, stages
from espalier.contract.manifest import (
    CodeRecord,
    ImageRecord,
    InputRecord,
    Manifest,
    Recipe,
    RunSpec,
    write_manifest,
)
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.errors import InputError
from espalier.host import identity as subject
from espalier.host.identity import Identity
from espalier.host.images import load_image


class Given(Parameters):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    seed: int = 0
    share: Annotated[float, Field(le=1)] = 0.5
    batch: int = 1


STAGE = Stage(
    name="wanda",
    verb="prune",
    section="checkpoints",
    image="wanda",
    parameters=Given,
    entry="methods.wanda.stage:run",
    summary="",
)
INPUTS = {"model": InputRecord(name="m", content="a" * 64)}


def asked(stage: Stage = STAGE, device: str = "cpu", **given: Any) -> Identity:
    lock = load_image(stage.image).lock_hash(stage.packages_on(device))
    return Identity.of(stage, stage.parameters(**given), INPUTS, lock, device)


def published(folder: Path, identity: Identity, **changes: Any) -> Path:
    """A result of that identity, changed in what its manifest says."""
    target = folder / "result"
    target.mkdir()
    manifest = Manifest(
        stage=identity.stage.name, verb="prune", name="result", parameters={}, seed=0,
        inputs=dict(identity.inputs), parents=[], command=[], content="", files=[],
        image=ImageRecord(name="wanda", lock=identity.lock),
        code=CodeRecord(sha256=identity.code), fingerprint=identity.recipe.fingerprint,
        recipe=identity.recipe, environment={"device": identity.device},
    )  # fmt: skip
    write_manifest(target, manifest.model_copy(update=changes))
    return target


def recorded(identity: Identity, parameters: Mapping[str, Any]) -> Recipe:
    return identity.recipe.model_copy(update={"parameters": dict(parameters)})


def test_the_same_is_done_and_nothing_is_said(tmp_path: Path) -> None:
    assert not asked().standing(tmp_path / "nothing").done
    standing = asked().standing(published(tmp_path, asked()))
    assert (standing.done, standing.remark) == (True, "")


def test_how_it_is_run_is_no_difference(tmp_path: Path) -> None:
    assert asked(batch=8).recipe == asked(batch=1).recipe
    assert asked(batch=8).standing(published(tmp_path, asked(batch=1))).done


@pytest.mark.parametrize(
    ("parameters", "done"),
    [
        ({"seed": 0, "share": 0.5}, True),
        ({"seed": 0, "share": 0.5, "batch": 4}, True),  # which decided once
        ({"seed": 0}, True),  # SHARE is new, and has its default
        ({"share": 0.5, "seed": 1}, False),
        ({"seed": 0, "share": 0.5, "gone": 1}, False),
        ({"seed": 0, "share": 3.5}, False),  # no longer allowed
    ],
)
def test_another_versions_parameters_are_compared_as_todays(
    tmp_path: Path, parameters: dict[str, Any], done: bool
) -> None:
    target = published(tmp_path, asked(), recipe=recorded(asked(), parameters))
    if done:
        assert asked().standing(target).done
        return
    with pytest.raises(InputError, match="has other parameters or inputs"):
        asked().standing(target)
    assert not asked().standing(target, force=True).done


def test_a_difference_is_named(tmp_path: Path) -> None:
    target = published(tmp_path, asked(seed=1))
    with pytest.raises(InputError, match=r"SEED 1 there, 0 here\. Choose another NAME="):
        asked().standing(target)
    other = {"model": InputRecord(name="m", content="b" * 64)}
    with pytest.raises(InputError, match=f"MODEL {'a' * 12} there, {'b' * 12} here"):
        Identity.of(STAGE, Given(seed=1), other, "", "cpu").standing(target)


def test_other_code_or_packages_are_used_and_said(tmp_path: Path) -> None:
    image = ImageRecord(name="wanda", lock="2" * 64)
    target = published(tmp_path, asked(), code=CodeRecord(sha256="1" * 64), image=image)
    standing = asked().standing(target)
    assert standing.done
    assert standing.remark.startswith(", made by other code (111111111111, now ")
    assert " and other packages (lock 222222222222, now " in standing.remark
    assert standing.remark.endswith("FORCE=1 makes it again")
    assert not asked().standing(target, force=True).done
    # A plan is cheap: it is always today's.
    assert not asked(replace(STAGE, renewed=True)).standing(target).done


def test_what_is_forced_is_made_anew_though_it_is_the_same(tmp_path: Path) -> None:
    target = published(tmp_path, asked())
    moment = (target / "manifest.json").stat().st_mtime
    assert asked().standing(target, force=True).done  # it is only read
    assert not asked().standing(target, force=True, renew_before=moment + 1).done
    assert asked().standing(target, force=True, renew_before=moment).done  # made since


def test_what_a_processor_made_is_used_for_a_gpu(tmp_path: Path) -> None:
    target = published(tmp_path, asked(device="cpu"))
    assert asked(device="cuda").lock != asked(device="cpu").lock
    standing = asked(device="cuda").standing(target)
    assert (standing.done, standing.remark) == (True, ", computed on cpu")


def test_a_store_of_the_first_versions_is_used(tmp_path: Path) -> None:
    target = published(tmp_path, asked(), code=CodeRecord(sha256="1" * 64))
    path = target / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"] |= {"code": "1" * 64, "lock": asked().lock}
    manifest["recipe"]["parameters"] |= {"batch": 8}
    path.write_text(json.dumps(manifest))
    standing = asked().standing(target)
    assert standing.done
    assert "other code" in standing.remark
    assert "packages" not in standing.remark


def begun(folder: Path, identity: Identity, **changes: Any) -> Path:
    partial = folder / f"result.partial-{identity.work[:12]}"
    (partial / ".run").mkdir(parents=True)
    spec = RunSpec(
        stage="wanda", name="result", parameters={}, inputs={}, recipe=identity.recipe,
        input_records=dict(identity.inputs), image=ImageRecord(name="wanda", lock=identity.lock),
        code=CodeRecord(sha256=identity.code), command=[], runtime="local", device="cpu",
    )  # fmt: skip
    (partial / ".run" / "run.json").write_text(spec.model_copy(update=changes).model_dump_json())
    return partial


def test_unfinished_work_of_other_code_is_not_continued(tmp_path: Path) -> None:
    mine, others = asked(), replace(asked(), code="1" * 64)
    assert len({mine.work, others.work, replace(mine, lock="").work, asked(seed=1).work}) == 4
    assert mine.work == asked(batch=8).work
    partials = [begun(tmp_path, mine), begun(tmp_path, others), begun(tmp_path, asked(seed=1))]
    (tmp_path / "result.partial-empty").mkdir()
    assert mine.abandoned([*partials, tmp_path / "result.partial-empty"]) == [partials[1]]


@pytest.mark.parametrize(
    "name",
    [
        *("corpus", "grow", "fetch", "fetch-package", "fetch-data", "data", "export", "adopt"),
        *("to-hf", "hf2composer", "composer2hf"),
    ],
)
def test_what_computes_on_no_device_is_the_same_for_all(name: str) -> None:
    stage = stage_named(name)
    assert {stage.device_of(accel) for accel in ("cpu", "cuda", "tpu")} == {"cpu"}
    assert {stage.packages_on(accel) for accel in ("cpu", "cuda", "tpu")} == {"cpu"}


def test_batches_say_only_how_to_run() -> None:
    """But for training, whose optimizer takes a step a batch, and for plans of it."""
    decided = {
        stage.name
        for stage in stages().values()
        if "batch" in stage.parameters.model_fields and "batch" not in stage.parameters.EXECUTION
    }
    trainings = {"train-gpu", "train-tpu", "recover", "sheared-llama"}
    assert decided == {*trainings, "plan-gpu", "plan-tpu"}
    for stage in stages().values():
        assert stage.parameters.model_fields.keys() >= stage.parameters.EXECUTION


def test_a_stage_that_is_gone_and_packages_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str, accel: str) -> str:
        raise InputError(f"There is no image {name}.")

    target = published(tmp_path, asked())
    monkeypatch.setattr(subject, "packages_lock", gone)
    remark = asked().standing(target).remark
    assert "other packages" in remark
    assert "now unset" in remark
