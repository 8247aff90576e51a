"""What a stage is: an image, a fixed command, validated parameters, named inputs, one output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from espalier.contract.parameters import Parameters
from espalier.contract.progress import Progress
from espalier.contract.pruned import Pruned

Section = Literal[
    "models", "data", "checkpoints", "maxtext", "composer", "scores", "evals", "plans", "pushes"
]


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to need: peak memory and disk in bytes, time in seconds.

    Attributes:
        seconds: on two cores.
        products: of them those of products of matrices, which a GPU makes many times faster.
    """

    memory: int
    disk: int
    seconds: float
    products: float = 0.0


@dataclass(frozen=True)
class Derived:
    """An input that another stage makes of the same model: its scores.

    Attributes:
        stage: the stage that makes it.
        asked: from the pruning stage's parameters to the assignments that they imply for it.
    """

    stage: str
    asked: Callable[[Any], Mapping[str, str]] = lambda parameters: {}


@dataclass(frozen=True)
class Unrolled:
    """One command as the prunings it stands for, each of the result before it.

    Attributes:
        steps: the parameters of each.
        configs: what each leaves of the parent's config.json; none where that is not available.
        table: a rich renderable for the user: what was chosen among what.
    """

    steps: tuple[Parameters, ...]
    table: Any = None
    configs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Stage:
    """A stage as the host sees it; importing one needs no torch.

    Attributes:
        name: how it is called, also the method's name.
        verb: `prune`, `score`, `grow`, `fetch`, `corpus`, `train`, `convert`, `plan`, `eval`,
            `push`.
        section: where on the store its output is published.
        image: the image it runs in.
        parameters: the class that validates its parameters.
        entry: `package.module:function`, imported inside the image only; called as
            `function(context, parameters) -> Outcome`.
        inputs: the roles of its read-only inputs; True where the input must be given.
        estimate: from parameters and the parent's config.json to what the run needs.
        network: whether it may use the network (those that fetch, and push).
        report: `package.module:function`, imported on the host; called as `function(before, after)`
            with two of the stage's results, or with one where the stage compares none, it gives a
            rich renderable.
        join: `package.module:function`, called as `function(context, parameters)` on every machine
            but the first, where a run is spread over several.
        checked_in: the image that checks the result, where the stage's own image lacks torch;
            it runs once the stage has ended, on the machine that the command was given on.
        tpu: whether it computes on TPUs, where they are asked for; other stages run on a processor.
        on_device: whether it computes on ACCEL; others run on a processor, with the packages of
            `cpu`, and give the same under any ACCEL.
        packages: the accelerator whose variant of the image it needs, whatever it computes on.
        renewed: whether a result of the same name that has other parameters or inputs is simply
            made again, as a plan is.
        derived: the inputs that other stages make of the same model, by role.
        forms: the foreign forms that it reads (`espalier.contract.pruned.Foreign`); every other
            foreign model is refused before it starts.
        unroll: from the parameters and the parent's config.json (empty where it is not available)
            to the prunings they stand for; may raise InputError.
        saved: `package.module:function`, imported on the host too, so without torch; called with
            the scratch folder, it says where a later run goes on, such as `step 120`, and None
            where that is at the beginning. The default is what the stage has noted; None: it saves
            nothing, so that a later run always begins anew.
    """

    name: str
    verb: str
    section: Section
    image: str
    parameters: type[Parameters]
    entry: str
    summary: str
    inputs: Mapping[str, bool] = field(default_factory=dict)
    estimate: Callable[[Any, Mapping[str, Any]], Estimate | None] | None = None
    network: bool = False
    report: str | None = None
    join: str | None = None
    checked_in: str | None = None
    tpu: bool = False
    on_device: bool = True
    packages: str | None = None
    renewed: bool = False
    derived: Mapping[str, Derived] = field(default_factory=dict)
    forms: frozenset[str] = frozenset()
    unroll: Callable[[Any, Mapping[str, Any]], Unrolled] | None = None
    saved: str | None = "espalier.contract.saved:noted"

    def device_of(self, accel: str) -> str:
        """What it computes on where `accel` is asked for."""
        return "cpu" if not self.on_device or (accel == "tpu" and not self.tpu) else accel

    def packages_on(self, accel: str) -> str:
        """The variant of its image that it takes where `accel` is asked for."""
        return self.packages or self.device_of(accel)


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given. It writes below `output` and nowhere else.

    `output` may hold files of an earlier, interrupted run with the same fingerprint: a stage that
    can resume uses them. SIGINT and SIGTERM raise `Interrupted` in the main thread at any point, so
    every file is written under a temporary name and renamed.

    Attributes:
        inputs: role to read-only path.
        output: the directory that will be published.
        scratch: a private folder inside the partial result that is removed before publishing
            (resume state, caches); it survives an interruption.
        device: `cpu`, `cuda` or `tpu`.
        progress: where steps and metrics are reported.
        name: of the artifact; its directory has another inside a container.
    """

    inputs: Mapping[str, Path]
    output: Path
    scratch: Path
    device: str
    progress: Progress
    name: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a stage tells the manifest, by the manifest's own section names."""

    pruning: Pruned | None = None
    training: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    checks: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
