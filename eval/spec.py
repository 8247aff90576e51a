"""The stages that evaluate: `eval` with the current harness, `eval-legacy` with the papers' own."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from espalier.contract.parameters import Optional, Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.models.narrow import COMPACT
from espalier.models.sliced_form import SLICED
from eval.suites import MAX_SEQLEN, SUITES

Count = Annotated[int, Field(ge=1)]


class EvalParameters(Parameters):
    """What is measured, and on how much of the data."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch", "backend"})

    suite: Annotated[
        Literal["quick", "perplexity", "paper-zero-shot", "tasks"],
        Field(
            description="quick: perplexity, 32,768 tokens at most; perplexity: all windows; "
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
        Field(description="tokens a window; default min(model's positions, 8192; quick: 2048)"),
    ] = None
    limit: Annotated[
        Count | None, Optional, Field(description="at most so many windows, and rows a task")
    ] = None
    batch: Annotated[Count, Field(description="sequences at a time")] = 8
    backend: Annotated[
        Literal["hf", "torch"],
        Field(
            description="of tasks; hf: lm-eval's own way; torch: what questions have in common once"
        ),
    ] = "hf"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="auto: the checkpoint's own"),
    ] = "auto"

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(filter(None, (name.strip() for name in self.tasks.split(","))))


BYTES = {"float32": 4, "float64": 8}
START_SECONDS = 8
"""Python, torch, transformers and the harness, and reading the text."""
PRODUCT_FLOPS = {2: 180e9, 4: 120e9, 8: 60e9}
"""Products of matrices on two server cores, by a weight's bytes; processors without a 16-bit unit
take as long as for 4."""
LOGITS_PER_SECOND = 200e6
"""Logits turned into a loss in float32, on two cores."""
TEXT_TOKENS = 300_000
"""Of a text that is measured whole: WikiText-2's test split."""
TASK_TOKENS = {"paper-zero-shot": 5_000_000}
"""Of a suite's tasks, all choices together; of others' rows little can be known."""
OTHER_TASK_TOKENS = 100_000
TASK_LENGTH = 100
DISK_BYTES_PER_SECOND = 250e6


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    """The whole model in memory, and a batch of float32 logits; each token passed once."""
    width, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    vocabulary = int(config.get("vocab_size", 0))
    ffn = int(config.get("intermediate_size", 4 * width))
    heads = int(config.get("num_attention_heads") or 1)
    head_dim = int(config.get("head_dim") or width // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    layer = 2 * width * head_dim * (heads + kv_heads) + 3 * width * ffn
    ends = vocabulary * width * (1 if config.get("tie_word_embeddings") else 2)
    stated = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    size = BYTES.get(stated if parameters.dtype == "auto" else parameters.dtype, 2)
    tokens, length = _tokens(parameters, int(config.get("max_position_embeddings") or MAX_SEQLEN))
    attention = 4 * length * heads * head_dim
    flops = tokens * (layers * (2 * layer + attention) + 2 * vocabulary * width)
    weights = layers * layer + ends
    return Estimate(
        memory=weights * size + (3 << 30),
        disk=1 << 20,
        seconds=START_SECONDS
        + weights * size / DISK_BYTES_PER_SECOND
        + flops / PRODUCT_FLOPS[size]
        + tokens * vocabulary / LOGITS_PER_SECOND,
    )


def _tokens(parameters: EvalParameters, positions: int) -> tuple[int, int]:
    """About how many tokens are passed through the model, and how many at once."""
    suite = SUITES[parameters.suite]
    length = parameters.seqlen or min(positions, suite.bounds.seqlen)
    available = max(1, TEXT_TOKENS // length)
    tokens = suite.bounds.limited(parameters.limit).count(available, length) * length
    if not suite.perplexity:
        tokens, length = 0, TASK_LENGTH
    if parameters.tasks or not suite.perplexity:
        tokens += TASK_TOKENS.get(parameters.suite, OTHER_TASK_TOKENS)
    return tokens, length


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
        saved=None,
        report="eval.report:report",
        forms=frozenset({COMPACT, SLICED}),
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
        saved=None,
        report="eval.report:report",
    ),
)
