"""docker-compose.yml and the Makefile offer the same stages with the same variables."""

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from espalier.contract.discovery import methods, stage_named
from espalier.contract.paths import ROOT
from espalier.host.commands.evaluation import EVALUATION
from espalier.host.commands.pruning import known_names, roles_of
from espalier.host.services import EVALUATED, FROM_ENVIRONMENT, with_environment
from tests.contract.command import espalier
from tests.tiny import tiny_llama

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
TPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.tpu.yml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DONE = {"condition": "service_completed_successfully"}
CLIENT = {name: os.environ[name] for name in ("DOCKER_CONFIG",) if name in os.environ}
SOURCES = {"calibration": "CALIBRATION", "tasks": "TASK_DATA", "domains": "DOMAIN_DATA"}


def words(name: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    """What a service's command is given where the user has set `variables`."""
    for variable in everything():  # of another service
        monkeypatch.delenv(variable, raising=False)
    for variable, value in SERVICES[name]["environment"].items():
        # Compose passes on what is set, where a service gives it no value.
        given = variables.get(variable, "") if value is None else interpolated(value, variables)
        monkeypatch.setenv(variable, given)
    said = [interpolated(word, variables) for word in SERVICES[name]["command"]]
    pairs = (word.split("=", 1) for word in with_environment(said)[1:])
    return {key: value for key, value in pairs if value}


def interpolated(text: str, variables: dict[str, str]) -> str:
    """What compose makes of `${NAME:-default}`, the innermost first."""
    while found := re.search(r"\$\{(\w+):-([^${}]*)\}", text):
        given = variables.get(found[1]) or found[2]
        text = text[: found.start()] + given + text[found.end() :]
    return text


def everything() -> dict[str, str]:
    """Every variable that any service knows, set."""
    names = {name for service in SERVICES.values() for name in service["environment"]}
    names |= {"TRAIN_DATA", "TRAIN_NAME", *(f"TRAIN_{name}" for name in COMPOSE["x-training"])}
    return {name: f"its-{name.lower()}" for name in names}


@pytest.mark.parametrize("method", methods())
def test_each_method_is_a_profile_that_prunes_and_then_evaluates(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, prune, evaluation = methods()[method], SERVICES[method], SERVICES[f"eval-{method}"]
    assert prune["image"] == f"espalier/{stage.image}:${{ACCEL:-cpu}}"
    assert prune["command"] == [f"prune-{method}", "SUITE=none"]
    parameters, roles = known_names(stage), roles_of(stage)
    given = {variable for role, variable in SOURCES.items() if role in roles}
    given |= {"SCORES"} if stage.derived else set()
    found = words(method, monkeypatch, **everything())
    assert found.keys() == parameters | given | {"MODEL", "NAME", "SUITE"}
    assert found["SUITE"] == "none"
    assert all(found[name] == f"its-{name.lower()}" for name in found.keys() - {"SUITE"})

    assert evaluation["image"] == f"espalier/{stage_named('eval').image}:${{ACCEL:-cpu}}"
    assert evaluation["command"] == ["eval", f"METHOD={method}"]
    found = words(f"eval-{method}", monkeypatch, **everything())
    assert found.keys() == parameters | {"METHOD", "MODEL", "NAME", *EVALUATED}

    assert prune["depends_on"] == {"prepare": DONE}
    assert evaluation["depends_on"] == {method: DONE}
    assert prune["profiles"] == evaluation["profiles"] == [method]
    assert "profiles" not in SERVICES["prepare"]  # whatever the profile, it is prepared


def test_what_is_not_set_is_left_to_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words("wanda", monkeypatch) == {"SUITE": "none"}
    assert words("wanda", monkeypatch, SAMPLES="") == {"SUITE": "none"}
    trained = {"DATA": "pydoc-sapling", "NAME": "trained"}
    assert words("train-gpu", monkeypatch) == trained


def test_compose_itself_reads_it_so() -> None:
    """Its merging of mappings is another program's than the one that these tests read with."""
    compose = [os.environ.get("DOCKER", "docker"), "compose"]
    if (
        not shutil.which(compose[0])
        or subprocess.run([*compose, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    given = {"SAMPLES": "7", "BATCH": "2", "TRAIN_BATCH": "8", "NAME": "pruned", "ACCEL": "cuda"}
    read = subprocess.run(
        [*compose, "--profile", "wanda", "--profile", "train", "config"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **given, **CLIENT},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    services = yaml.safe_load(read.stdout)["services"]
    found = {
        name: {key: value for key, value in service["environment"].items() if key in given}
        for name, service in services.items()
    }
    pruned = {"SAMPLES": "7", "BATCH": "2", "NAME": "pruned", "ACCEL": "cuda"}
    assert found["wanda"] == found["eval-wanda"] == pruned
    assert found["train-gpu"] == {**pruned, "BATCH": "8"}
    assert found["eval-train"] == {"ACCEL": "cuda"}
    assert services["train-gpu"]["command"][1] == "CKPT=pruned"
    assert services["wanda"]["image"] == "espalier/wanda:cuda"


def test_outside_of_a_service_the_environment_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stray SEED, BATCH or NAME in a user's shell changes no run."""
    monkeypatch.delenv(FROM_ENVIRONMENT, raising=False)
    for name, value in everything().items():
        if name not in ("STORE", "RUNTIME", "ACCEL", "GPUS", "THREADS", FROM_ENVIRONMENT):
            monkeypatch.setenv(name, value)
    assert with_environment(["prune-wanda", "SEED=3"]) == ["prune-wanda", "SEED=3"]
    model = tiny_llama(tmp_path / "tiny")
    shown = espalier(tmp_path / "store", "prune-magnitude", f"MODEL={model}", "DRY_RUN=1")
    assert shown.stdout.splitlines()[-1].endswith("/tiny-magnitude-0.5"), shown.stderr


def test_a_service_takes_its_words_from_its_environment(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "tiny")
    environment = {FROM_ENVIRONMENT: "1", "MODEL": str(model), "PATTERN": "2:4", "VARIANT": "1"}
    store = tmp_path / "store"
    command = ("prune-magnitude", "SUITE=none", "DRY_RUN=1")
    shown = espalier(store, *command, environment=environment)
    assert shown.stdout.splitlines()[-1].endswith("/tiny-magnitude-2of4"), shown.stderr
    given = espalier(store, *command, "PATTERN=4:8", environment=environment)
    assert given.stdout.splitlines()[-1].endswith("/tiny-magnitude-4of8"), given.stderr


def test_the_evaluation_takes_the_pruning_s_words_with_any_name(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "tiny")
    words = ("METHOD=magnitude", f"MODEL={model}", "PATTERN=2:4", "SPARSITY=0.5", f"NAME={model}")
    shown = espalier(tmp_path / "store", "eval", *words, "SUITE=perplexity", "DRY_RUN=1")
    assert shown.returncode == 0, shown.stderr


def test_what_is_handed_on_to_an_evaluation_is_what_a_pipeline_hands_on() -> None:
    """But for the papers' harness, which is in another image."""
    assert set(EVALUATED) == set(EVALUATION) - {"LEGACY"}


def test_training_follows_whichever_method_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    service, stage = SERVICES["train-gpu"], stage_named("train-gpu")
    assert service["image"] == f"espalier/{stage.image}:${{ACCEL:-cpu}}"
    assert service["depends_on"].keys() == {"prepare", *methods()}
    assert all(not service["depends_on"][name]["required"] for name in methods())
    found = words("train-gpu", monkeypatch, **everything())
    parameters = {name.upper() for name in stage.parameters.model_fields}
    assert found.keys() == parameters | {"MODEL", "CKPT", "DATA", "TEACHER", "NAME"}
    assert "GPUS" in service["environment"]
    assert (found["CKPT"], found["NAME"]) == ("its-name", "its-train_name")
    evaluated = words("eval-train", monkeypatch, **everything())
    assert evaluated == {"CKPT": "its-train_name", "SUITE": "its-suite", "DATA": "its-data"}


@pytest.mark.parametrize("trainer", ["train-gpu", "train-tpu", "recover"])
def test_what_pruning_has_too_is_the_training_s_own(
    trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BATCH is the pruning's, TRAIN_BATCH the training's, as in a pipeline."""
    pruning = set().union(*(known_names(stage) for stage in methods().values()))
    own = {name.upper() for name in stage_named(trainer).parameters.model_fields}
    found = words(trainer, monkeypatch, **everything())
    assert {name for name in own if found[name].startswith("its-train_")} == pruning & own
    assert pruning & own <= COMPOSE["x-training"].keys()


def test_a_word_of_a_method_that_trains_is_the_training_s_as_long_as_that_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TOKENS is a mask learning's, and where anything else prunes it is the training's alone."""
    plain = set().union(
        *(known_names(stage) for stage in methods().values() if "TOKENS" not in known_names(stage))
    )
    assert "TOKENS" in COMPOSE["x-training"].keys() - plain
    for word in COMPOSE["x-training"]:
        trainer = next(
            name for name in ("train-gpu", "recover") if word in known_names(stage_named(name))
        )
        found = words(trainer, monkeypatch, **{word: "its"}).get(word)
        assert found == (None if word in plain else "its")
        given = {word: "its", f"TRAIN_{word}": "other"}
        assert words(trainer, monkeypatch, **given)[word] == "other"


def test_recovery_follows_whichever_method_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    service, stage = SERVICES["recover"], stage_named("recover")
    assert service["image"] == f"espalier/{stage.image}:${{ACCEL:-cpu}}"
    assert service["depends_on"] == SERVICES["train-gpu"]["depends_on"]
    found = words("recover", monkeypatch, **everything())
    parameters = {name.upper() for name in stage.parameters.model_fields}
    assert found.keys() == parameters | {"MODEL", "CKPT", "DATA", "TEACHER", "NAME"}
    assert (found["CKPT"], found["DATA"]) == ("its-name", "its-train_data")
    assert words("recover", monkeypatch) == {"NAME": "trained"}  # DATA is the model's usual one
    assert SERVICES["eval-recover"]["depends_on"] == {"recover": DONE}
    evaluated = words("eval-recover", monkeypatch, **everything())
    assert evaluated == {"CKPT": "its-train_name", "SUITE": "its-suite", "DATA": "its-data"}


def test_training_by_maxtext_is_four_services_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, name = stage_named("train-tpu"), "its-train_name"
    images = {
        "export-train-tpu": f"espalier/{stage_named('export').image}:cpu",
        "train-tpu": f"espalier/{stage.image}:cpu",
        "publish-train-tpu": f"espalier/{stage.checked_in}:cpu",
        "eval-train-tpu": "espalier/eval:${ACCEL:-cpu}",
    }
    assert {service: SERVICES[service]["image"] for service in images} == images
    for earlier, later in pairwise(images):
        assert SERVICES[later]["depends_on"] == {earlier: DONE}
    first, second, third, last = (words(each, monkeypatch, **everything()) for each in images)
    assert SERVICES["export-train-tpu"]["depends_on"] == SERVICES["train-gpu"]["depends_on"]
    assert first == {
        "MODEL": "its-model", "CKPT": "its-name", "DATA": "its-train_data",
        "FORMAT": "arrayrecord", "TARGETS": "1", "SEQLEN": "its-train_seqlen",
        "NAME": f"{name}-rows",
    }  # fmt: skip
    parameters = {field.upper() for field in stage.parameters.model_fields}
    assert second.keys() == parameters | {"MODEL", "CKPT", "DATA", "NAME"}
    assert (second["CKPT"], second["DATA"]) == ("its-name", f"{name}-rows")
    assert second["NAME"] == name
    assert third == {"NAME": name}
    assert last == {"CKPT": name, "SUITE": "its-suite", "DATA": "its-data"}
    assert all(SERVICES[service]["profiles"] == ["train-tpu"] for service in images)
    on_tpu = TPU["services"]["train-tpu"]
    assert TPU["services"].keys() == {"train-tpu"}
    assert on_tpu["image"] == f"espalier/{stage.image}:tpu"
    assert on_tpu["privileged"]


def test_what_is_prepared_is_what_the_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    found = words("prepare", monkeypatch, **everything())
    assert found.keys() == {"MODEL", "CALIBRATION", "SUITE", "DATA", "TRAIN"}


def test_no_service_is_without_a_method() -> None:
    training = {"train-gpu", "eval-train", "eval-train-tpu", "recover", "eval-recover"}
    expected = {"prepare", *methods(), *(f"eval-{name}" for name in methods()), *training}
    by_maxtext = {"export-train-tpu", "train-tpu", "publish-train-tpu"}
    assert set(SERVICES) == expected | by_maxtext
    assert set(GPU["services"]) == expected


def test_only_prepare_has_the_network_and_the_token() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["environment"][FROM_ENVIRONMENT] == "1"
        assert (service["network_mode"] == "none") is (name != "prepare")
        assert ("secrets" in service) is (name == "prepare")


def test_the_makefile_has_a_target_for_each_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9% -]*):", makefile, re.MULTILINE))
    named = {name for line in targets for name in line.split()}
    commands = {service["command"][0] for service in SERVICES.values()}
    assert {name for name in commands if not name.startswith("prune-")} <= named
    assert "prune-%" in named
