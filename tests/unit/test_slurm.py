"""RUNTIME=slurm without Slurm: the argv of steps, the scripts of jobs, and what each refuses."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract import image as images
from espalier.contract.discovery import stage_named
from espalier.contract.paths import ROOT
from espalier.contract.processes import Processes
from espalier.contract.store import Store
from espalier.errors import Diverged, EnvironmentFailure, InputError
from espalier.host.execution import Executor
from espalier.host.images import load_image
from espalier.host.images.definition import CODE
from espalier.host.plan import Request
from espalier.host.resolution import launch_to
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.choice import choose_runtime, fetching_runtime
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.runtimes.slurm import step
from espalier.host.runtimes.slurm.backends import WRAPPER, Apptainer, Bare, ImageFiles, Pyxis
from espalier.host.runtimes.slurm.job import BODY, Job
from espalier.host.runtimes.slurm.step import SlurmRuntime
from espalier.host.runtimes.slurm.submission import submit
from espalier.host.settings import Settings, read_settings, split_assignments
from tests.contract.waiting import wait_until

STEP = [
    *("srun", "--job-name=run-1", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--overlap"),
    *("--mpi=none", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=120"),
]
STAGE = ["/opt/venv/bin/python", "-m", "espalier.run_stage", "/out"]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    (tmp_path / "model").mkdir()
    (tmp_path / "ids.safetensors").touch()
    inputs = {"model": tmp_path / "model", "calibration": tmp_path / "ids.safetensors"}
    return Launch("wanda", "cpu", "run-1", inputs, tmp_path / "out")


def files(tmp_path: Path, suffix: str) -> ImageFiles:
    return ImageFiles(f"{tmp_path}/{{image}}-{{accel}}.{suffix}", tmp_path / "hashes")


def mounted(tmp_path: Path) -> list[str]:
    return [
        f"{tmp_path}/model:/in/model:ro",
        f"{tmp_path}/ids.safetensors:/in/calibration/ids.safetensors:ro",
        f"{tmp_path}/out:/out:rw",
        *(f"{ROOT}/{name}:/opt/espalier/{name}:ro" for name in CODE),
    ]


def test_a_step_without_a_container(launch: Launch, tmp_path: Path) -> None:
    words = SlurmRuntime(Bare(InsideRuntime())).argv(launch)
    stage = [sys.executable, "-m", "espalier.run_stage", f"{tmp_path}/out"]
    assert words == [*STEP, "--export=ALL", *stage]


def test_a_step_in_apptainer(launch: Launch, tmp_path: Path) -> None:
    words = SlurmRuntime(Apptainer(files(tmp_path, "sif"))).argv(launch)
    binds = [
        f"--mount=type=bind,source={source},target={target}{',readonly' * (mode == 'ro')}"
        for source, target, mode in (mount.split(":") for mount in mounted(tmp_path))
    ]
    exec_ = [str(WRAPPER), "--containall", "--no-home", "--pwd=/tmp", *binds]
    assert words == [*STEP, "--export=ALL", *exec_, f"{tmp_path}/wanda-cpu.sif", *STAGE]
    cuda = SlurmRuntime(Apptainer(files(tmp_path, "sif"))).argv(replace(launch, device="cuda"))
    assert {"--nv", f"{tmp_path}/wanda-cuda.sif"} <= set(cuda)


def test_what_an_apptainer_container_sees(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    wide = replace(launch, processes=Processes(2, 8, head="10.0.0.1"))
    environment = Apptainer(ImageFiles("x.sif", Path("/nowhere"))).environment(wide)
    inside = {k.removeprefix("APPTAINERENV_") for k in environment if k.startswith("APPTAINERENV_")}
    assert "HF_TOKEN" not in environment
    assert not {"PATH", "HOME", "HF_TOKEN", "PYTHONPATH"} & inside
    assert environment["APPTAINERENV_ESPALIER_HEAD"] == "10.0.0.1"
    assert environment["APPTAINERENV_HF_HUB_OFFLINE"] == "1"
    assert environment["APPTAINERENV_NCCL_SOCKET_IFNAME"] == "ib0"


def test_a_step_in_pyxis(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    place = Pyxis(files(tmp_path, "sqsh"))
    flags = place.flags(replace(launch, device="cuda"))
    assert f"--container-image={tmp_path}/wanda-cuda.sqsh" in flags
    assert f"--container-mounts={','.join([*mounted(tmp_path), 'tmpfs:/tmp'])}" in flags
    assert {"--container-readonly", "--no-container-mount-home"} <= set(flags)
    assert "--no-container-remap-root" in flags  # files are the caller's
    (exported,) = [flag for flag in flags if flag.startswith("--export=")]
    names = exported.removeprefix("--export=").split(",")
    assert {"ESPALIER_NODES", "HF_HUB_OFFLINE", "NVIDIA_VISIBLE_DEVICES"} <= set(names)
    assert not {"ALL", "PATH", "HF_TOKEN"} & set(names)
    environment = place.environment(replace(launch, device="cuda"))
    assert "HF_TOKEN" not in environment
    assert set(names) <= environment.keys()
    assert SlurmRuntime(place).argv(launch)[-4:] == STAGE


def test_training_has_a_task_on_each_node(launch: Launch) -> None:
    runtime = SlurmRuntime(Bare(InsideRuntime()))
    words = runtime.argv(replace(launch, processes=Processes(4, 8)))
    assert {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1"} <= set(words)


def test_only_a_stage_with_a_part_for_other_machines_gets_them(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path, nodes=4, gpus=8)
    wanda = stage_named("wanda")
    for stage, nodes in ((wanda, 1), (replace(wanda, join="some:function"), 4)):
        request = Request(stage, stage.parameters.from_assignments({}), {}, "name")
        launch = launch_to(tmp_path, request, InsideRuntime(), Store(tmp_path), settings)
        assert launch.processes.nodes == nodes


def test_more_nodes_than_the_job_has(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(InputError, match="NODES=4 was requested, but this job has 2"):
        SlurmRuntime(Bare(InsideRuntime())).run(replace(launch, processes=Processes(4)))


def test_an_image_file_is_known_by_its_hash(tmp_path: Path) -> None:
    place = Apptainer(files(tmp_path, "sif"))
    assert place.image("wanda", "cpu", build=False).lock == load_image("wanda").lock_hash("cpu")
    with pytest.raises(EnvironmentFailure, match=r"wanda-cpu\.sif does not exist; .*save-wanda"):
        place.image("wanda", "cpu", build=True)
    (tmp_path / "wanda-cpu.sif").write_bytes(b"")
    digest = place.image("wanda", "cpu", build=True).digest
    assert digest == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    registry = Pyxis(ImageFiles("registry#espalier/{image}:{accel}", tmp_path))
    assert registry.image("eval", "cuda", build=True).reference == "registry#espalier/eval:cuda"


def test_an_image_of_other_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = InsideRuntime().image("wanda", "cpu", build=False)
    monkeypatch.setattr(images, "BUILT_FROM", tmp_path)
    (tmp_path / "torch.lock").write_text(
        Path(ROOT / "images/torch/requirements-cpu.lock").read_text()
    )
    own = tmp_path / "wanda.lock"
    own.write_text(Path(ROOT / "images/wanda/requirements.lock").read_text())
    images.require_built_from(record)
    own.write_text("torch==0.1\n")
    with pytest.raises(EnvironmentFailure, match="was built from other locks"):
        images.require_built_from(record)


def test_an_image_without_torch_has_its_own_lock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "BUILT_FROM", tmp_path)
    lock = Path(ROOT / "images/maxtext/requirements-tpu.lock").read_text()
    (tmp_path / "maxtext.lock").write_text(lock)
    assert InsideRuntime().image("maxtext", "tpu", build=False).lock == (
        load_image("maxtext").lock_hash("tpu")
    )


def test_nothing_is_fetched_in_a_job(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store")
    executor = Executor(Store(settings.store), SlurmRuntime(Bare(InsideRuntime())), settings)
    fetch = stage_named("fetch")
    wanted = fetch.parameters.from_assignments({"MODEL": "some/model"})
    with pytest.raises(EnvironmentFailure, match="RUNTIME=slurm has none; make it first"):
        executor.execute(Request(fetch, wanted, {}, "some--model"))
    assert not settings.store.exists()


def test_what_fetches_where_jobs_are_submitted(launch: Launch, tmp_path: Path) -> None:
    sif = fetching_runtime(Settings(runtime="slurm", container="apptainer", store=tmp_path))
    assert sif.argv(launch)[0] == str(WRAPPER)
    assert f"{tmp_path}/images/wanda-cpu.sif" in sif.argv(launch)
    inside = fetching_runtime(Settings(runtime="slurm", container="inside"))
    assert inside.argv(launch)[0] == sys.executable


def job(tmp_path: Path, trains: bool = False, **given: object) -> Job:
    settings = Settings.model_validate({"STORE": tmp_path / "a store", "RUNTIME": "slurm", **given})
    return Job("prune-wanda", tmp_path / "it's", settings, trains)


def test_a_jobs_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    asked = {"PARTITION": "gpu", "ACCOUNT": "me", "TIME": "1-12", "MEMORY": "8g", "CPUS": "3.5"}
    script = job(tmp_path, ACCEL="cuda", NODES=2, GPUS=8, **asked).script()
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]
    assert options == [
        *("--job-name=prune-wanda", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=4"),
        *("--mem=8192M", "--gres=gpu:1", "--partition=gpu", "--account=me", "--time=1-12"),
        f"--output='{tmp_path}/a store/slurm/%x-%j.log'",
        *("--open-mode=append", "--signal=B:TERM@120", f"--chdir={Path.cwd()}"),
        "--export=PATH,HOME,USER,LANG,LD_LIBRARY_PATH,NCCL_DEBUG",
        "--requeue",
    ]
    assert "hf_secret" not in script
    words = (
        f"-m espalier run 'PLAN={tmp_path}/it'\"'\"'s' STEP=prune-wanda 'STORE={tmp_path}/a store'"
    )
    assert words in script
    assert " NODES=1" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_only_training_gets_the_nodes_and_gpus(tmp_path: Path) -> None:
    script = job(tmp_path, trains=True, ACCEL="cuda", NODES=2, GPUS=8).script()
    assert "#SBATCH --nodes=2\n" in script
    assert "#SBATCH --gres=gpu:8\n" in script
    assert " GPUS=8 NODES=2" in script


def test_flags_of_ones_own_come_last(tmp_path: Path) -> None:
    script = job(tmp_path, SBATCH_FLAGS="--qos=high --signal=B:TERM@600").script()
    lines = [line for line in script.splitlines() if "#SBATCH" in line]
    assert lines[-1] == "#SBATCH --qos=high --signal=B:TERM@600"


def test_a_jobs_words_give_its_settings_again(tmp_path: Path) -> None:
    made = job(tmp_path, FORCE="1", WAIT="0", MEMORY="1.5g", THREADS="4", CONTAINER="inside")
    settings, rest = read_settings(split_assignments(made.words[4:]))
    assert settings == made.settings
    assert rest == {"PLAN": f"{tmp_path}/it's", "STEP": "prune-wanda"}


@pytest.mark.parametrize("time", ["30", "90:00", "04:00:00", "2-0", "2-12:30", "1-00:00:00"])
def test_times_that_slurm_knows(time: str) -> None:
    assert read_settings({"TIME": time})[0].time == time


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("TIME=soon", "TIME=soon is not a time"),
        ("TIME=1:2:3:4", "is not a time"),
        ("TIME=4", "is too short"),
        ("TIME=00:04:59", "is too short"),
        ("CONTAINER=docker", "CONTAINER=docker should be 'none', 'apptainer'"),
        ("PARTITION=a\n#SBATCH --uid=0", "must be one line"),
        ("SBATCH_FLAGS=a\nrm", "must be one line"),
        ("STORE=a\n#SBATCH --uid=0", "must be one line"),
    ],
)
def test_settings_that_do_not_hold(word: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_settings(split_assignments([word]))


def test_slurm_is_a_runtime() -> None:
    assert choose_runtime(Settings(runtime="slurm")).name == "slurm"


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """Slurm's and apptainer's commands, which write down how they were called."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    said = {
        "scontrol": f'echo "$@" >> {tmp_path}/requeued',
        "squeue": "echo ${FAKE_STATE-RUNNING}",
        "apptainer": f'echo "$@" > {tmp_path}/seen; env >> {tmp_path}/seen; '
        'test -d "${2#--workdir=}" && exit 75',
    }
    for name, body in said.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def with_fakes(fakes: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **variables}


@pytest.mark.parametrize(
    ("code", "variables", "requeued"),
    [
        (0, {}, False),
        (1, {}, False),
        (2, {}, False),
        (Diverged.exit_code, {}, False),
        (75, {}, True),
        (75, {"SLURM_RESTART_COUNT": "2"}, True),
        (75, {"SLURM_RESTART_COUNT": "3"}, False),
        (75, {"FAKE_STATE": "COMPLETING"}, False),
    ],
)
def test_what_a_job_does_in_the_end(
    tmp_path: Path, fakes: Path, code: int, variables: dict[str, str], requeued: bool
) -> None:
    words = ["bash", str(BODY), "bash", "-c", f"exit {code}"]
    done = subprocess.run(words, env=with_fakes(fakes, **variables), check=False)
    assert done.returncode == code
    assert (tmp_path / "requeued").is_file() == requeued


@pytest.mark.parametrize("answer", ["trap 'exit 75' TERM", ":"])
def test_a_job_hands_the_signal_on_and_is_requeued(
    tmp_path: Path, fakes: Path, answer: str
) -> None:
    script = f"{answer}; touch {tmp_path}/up; for _ in $(seq 200); do sleep 0.05; done"
    process = subprocess.Popen(
        ["bash", str(BODY), "bash", "-c", script], env=with_fakes(fakes, SLURM_RESTART_COUNT="9")
    )
    wait_until((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (75, 143)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


ONCE_BUSY = 'test -e "$0.asked" || { touch "$0.asked"; exit 1; }'
"""Does not answer at first."""


def test_a_job_asks_again_where_slurm_does_not_answer(tmp_path: Path, fakes: Path) -> None:
    for name in ("squeue", "scontrol"):
        text = (fakes / name).read_text()
        (fakes / name).write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\n{ONCE_BUSY}\n"))
    words = ["bash", str(BODY), "bash", "-c", "exit 75"]
    given = with_fakes(fakes, ESPALIER_ASK_AGAIN_SECONDS="0")
    assert subprocess.run(words, env=given, check=False).returncode == 75
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_job_that_cannot_be_queued_again_says_how_to_resume(fakes: Path) -> None:
    (fakes / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    words = ["bash", str(BODY), "bash", "-c", "exit 75"]
    given = with_fakes(fakes, ESPALIER_ASK_AGAIN_SECONDS="0")
    done = subprocess.run(words, env=given, check=False, capture_output=True, text=True)
    assert done.returncode == 75
    assert "is not queued again; run the same command to resume." in done.stderr


def test_the_first_node_is_asked_for_again(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = 'case "$2" in hostnames) echo a1 a2;; *) echo "NodeName=a1 NodeAddr=10.0.0.1 x";; esac'
    (fakes / "scontrol").write_text(f"#!/bin/sh\n{ONCE_BUSY}\n{answer}\n")
    monkeypatch.setenv("PATH", with_fakes(fakes)["PATH"])
    monkeypatch.setattr(step, "ASK_AGAIN_SECONDS", 0)
    assert step.first_node() == "10.0.0.1"
    monkeypatch.setattr(step, "ANSWER_SECONDS", 0)
    (fakes / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(EnvironmentFailure, match="does not say which the job's nodes are"):
        step.first_node()


SBATCH = """n=$(cat {0}/count 2>/dev/null || echo 0); n=$((n + 1)); echo $n > {0}/count
[ $n -lt 3 ] || {{ {1}; }}
echo $n"""


def chain(tmp_path: Path) -> list[Job]:
    first = job(tmp_path)
    first.folder.mkdir(parents=True)
    names = ("prune", "train", "evaluate")
    jobs = [replace(first, step=name) for name in names]
    return [replace(each, after=(names[n - 1],) if n else ()) for n, each in enumerate(jobs)]


def test_half_a_chain_is_taken_back(
    tmp_path: Path, fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail = 'echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1'
    (fakes / "sbatch").write_text(f"#!/bin/sh\n{SBATCH.format(tmp_path, fail)}\n")
    (fakes / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/cancelled\n')
    for name in ("sbatch", "scancel"):
        (fakes / name).chmod(0o755)
    monkeypatch.setenv("PATH", with_fakes(fakes)["PATH"])
    jobs = chain(tmp_path)
    with pytest.raises(InputError, match="Slurm refuses the job evaluate: Invalid account"):
        submit(jobs)
    assert (tmp_path / "cancelled").read_text() == "1 2\n"
    assert "cancelled what was submitted: 1, 2" in capsys.readouterr().err


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_any_end_takes_half_a_chain_back(
    tmp_path: Path,
    fakes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: BaseException,
) -> None:
    """The job whose script could not be kept is in the queue too."""
    (fakes / "sbatch").write_text(f"#!/bin/sh\n{SBATCH.format(tmp_path, ':')}\n")
    (fakes / "scancel").write_text("#!/bin/sh\necho 'scancel: error: no answer' >&2; exit 1\n")
    for name in ("sbatch", "scancel"):
        (fakes / name).chmod(0o755)
    monkeypatch.setenv("PATH", with_fakes(fakes)["PATH"])

    def write_text(path: Path, content: str) -> None:
        if "train" in path.name:
            raise end

    jobs = chain(tmp_path)
    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(type(end)):
        submit(jobs)
    assert "still in the queue (scancel: error: no answer): scancel 1 2" in capsys.readouterr().err


def test_apptainer_is_told_what_the_node_knows(tmp_path: Path, fakes: Path) -> None:
    given = {"SLURM_NODEID": "3", "CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(tmp_path)}
    done = subprocess.run([WRAPPER, "image.sif", "x"], env=with_fakes(fakes, **given), check=False)
    assert done.returncode == 75
    command, *environment = (tmp_path / "seen").read_text().splitlines()
    assert command.startswith(f"exec --workdir={tmp_path}/")
    assert command.endswith("image.sif x")
    assert {"APPTAINERENV_ESPALIER_NODE=3", "APPTAINERENV_CUDA_VISIBLE_DEVICES=0,1"} <= set(
        environment
    )
    assert not list(tmp_path.glob("tmp.*"))
