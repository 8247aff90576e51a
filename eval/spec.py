"""The stages that evaluate: `eval` with the current harness, `eval-legacy` with the papers' own."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from espalier.contract.parameters import Optional, Parameters
from espalier.contract.stage import Estimate, Stage

Count = Annotated[int, Field(ge=1)]


class EvalParameters(Parameters):
    """What is measured, and on how much of the data."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    suite: Annotated[
        Literal["quick", "perplexity", "paper-zero-shot", "tasks"],
        Field(
            description="quick: perplexity, 64 windows at most; perplexity: all windows; "
            "paper-zero-shot: seven tasks; tasks: those of TASKS alone"
        ),
    ] = "quick"
    tasks: Annotated[
        str, Field(description="comma-separated; default the suite's, or every file of TASK_DATA")
    ] = ""
    split: Annotated[str | None, Optional, Field(description="of DATA; default its own")] = None
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Optional,
        Field(description="tokens a window; default min(model's positions, 8192)"),
    ] = None
    limit: Annotated[
        Count | None, Optional, Field(description="at most so many windows, and rows a task")
    ] = None
    batch: Annotated[Count, Field(description="sequences at a time")] = 8
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="auto: the checkpoint's own"),
    ] = "auto"

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(filter(None, (name.strip() for name in self.tasks.split(","))))


BYTES = {"float32": 4, "float64": 8}


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    """The whole model in memory, and a batch of float32 logits."""
    width, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    vocabulary = int(config.get("vocab_size", 0))
    ffn = int(config.get("intermediate_size", 4 * width))
    weights = vocabulary * width * 2 + layers * (4 * width * width + 3 * width * ffn)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    memory = weights * BYTES.get(dtype, 2) + (3 << 30)
    return Estimate(memory=memory, disk=1 << 20, seconds=30 + weights * 1e-6)


STAGES = (
    Stage(
        name="eval",
        verb="eval",
        section="evals",
        image="eval",
        parameters=EvalParameters,
        entry="eval.stage:run",
        summary="measure perplexity and lm-eval 0.4.13 tasks",
        inputs={"model": True, "data": False, "tasks": False},
        estimate=_estimate,
        report="eval.report:report",
    ),
    Stage(
        name="eval-legacy",
        verb="eval",
        section="evals",
        image="wanda",
        parameters=EvalParameters,
        entry="eval.stage:run_legacy",
        summary="measure perplexity and tasks with lm-eval 0.3.0, which the papers used",
        inputs={"model": True, "data": False, "tasks": False},
        estimate=_estimate,
        report="eval.report:report",
    ),
)
