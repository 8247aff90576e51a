"""The stages that evaluate: `eval` with the current harness, `eval-legacy` with the papers' own."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from espalier.contract.parameters import Optional, Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.models.narrow import COMPACT
from espalier.models.sliced_form import SLICED
from eval.suites.entry import Entry, parse_entries
from eval.suites.suite import MAX_SEQLEN, SUITES

Count = Annotated[int, Field(ge=1)]


SuiteName = Literal[
    "quick",
    "perplexity",
    "ppl",
    "paper-zero-shot",
    "wanda-table",
    "llm-pruner-table",
    "collection",
    "blimp",
    "tasks",
]
MEASURES = "measures"
"""What an identity calls the tasks of a suite."""
BEFORE_RECORDED = {"paper-zero-shot": ",".join(map(str, SUITES["wanda-table"].tasks))}
"""The tasks of suites whose results do not say them."""


class EvalParameters(Parameters):
    """What is measured, and on how much of the data; its backends add themselves and a dtype."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch", "backend"})

    suite: Annotated[
        SuiteName,
        Field(description="; ".join(f"{name}: {suite.about}" for name, suite in SUITES.items())),
    ] = "quick"
    split: Annotated[str | None, Optional, Field(description="of DATA; default its own")] = None
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Optional,
        Field(description="tokens a window; default min(model's positions, 8192; quick: 2048)"),
    ] = None
    tasks: Annotated[
        str,
        Field(
            description="<task>[:<examples>[:<metric>]], comma-separated; default the suite's, or "
            "every file of TASK_DATA"
        ),
    ] = ""
    limit: Annotated[
        Count | None, Optional, Field(description="at most so many windows, and rows a task")
    ] = None
    batch: Annotated[Count, Field(description="sequences at a time")] = 8
    bos: Annotated[
        Literal["harness", "once"],
        Field(
            description="of rolling texts; harness: as lm-eval 0.4.13, twice where the tokenizer "
            "puts one there too"
        ),
    ] = "harness"
    log_samples: Annotated[
        bool,
        Field(description="write every request of tasks with its answer too, as samples.jsonl"),
    ] = False

    @field_validator("tasks")
    @classmethod
    def _are_entries(cls, words: str) -> str:
        parse_entries(words.split(","))
        return words

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The tasks of TASKS, else the suite's."""
        return parse_entries(self.tasks.split(",")) or SUITES[self.suite].tasks

    def unused(self) -> frozenset[str]:
        """Suites of tasks need no text; one that is given is measured."""
        return frozenset(() if SUITES[self.suite].perplexity else ("data",))

    def identity(self) -> dict[str, Any]:
        """What is fingerprinted: also what a suite's name stands for, as that may change."""
        entries = () if self.tasks else SUITES[self.suite].tasks
        return super().identity() | _measures(",".join(map(str, entries)))

    @classmethod
    def identity_of(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """A suite that was recorded has measured what it stood for then."""
        rest = dict(recorded)
        measured = rest.pop(MEASURES, None)
        if measured is None and not rest.get("tasks"):
            measured = BEFORE_RECORDED.get(str(rest.get("suite")))
        found = super().identity_of(rest)
        found.pop(MEASURES, None)
        return found | _measures(measured)


def _measures(entries: str | None) -> dict[str, str]:
    return {MEASURES: entries} if entries else {}


class TorchEvalParameters(EvalParameters):
    """What is measured by torch."""

    backend: Annotated[
        Literal["hf", "torch"],
        Field(
            description="of tasks; hf: lm-eval's own way; torch: what questions have in common "
            "once; jax: the same by JAX (stage eval-jax)"
        ),
    ] = "hf"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="auto: the checkpoint's own"),
    ] = "auto"


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
TASK_TOKENS = {
    "paper-zero-shot": 6_000_000,
    "wanda-table": 5_000_000,
    "llm-pruner-table": 5_500_000,
    "collection": 150_000_000,
    "blimp": 1_600_000,
}
"""Of a suite's tasks, all choices together; of others' rows little can be known."""
OTHER_TASK_TOKENS = 100_000
TASK_LENGTH = 100
DISK_BYTES_PER_SECOND = 250e6


def estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
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
    products = flops / PRODUCT_FLOPS[size] + tokens * vocabulary / LOGITS_PER_SECOND
    return Estimate(
        memory=weights * size + (3 << 30),
        disk=1 << 20,
        seconds=START_SECONDS + weights * size / DISK_BYTES_PER_SECOND + products,
        products=products,
    )


def _tokens(parameters: Any, positions: int) -> tuple[int, int]:
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
        parameters=TorchEvalParameters,
        entry="eval.stage:run",
        summary="measure perplexity and lm-eval 0.4.13 tasks",
        inputs={"model": True, "data": False, "tasks": False},
        estimate=estimate,
        report="eval.report:report",
        forms=frozenset({COMPACT, SLICED}),
    ),
    Stage(
        name="eval-legacy",
        verb="eval",
        section="evals",
        image="wanda",
        parameters=TorchEvalParameters,
        entry="eval.stage:run_legacy",
        summary="measure perplexity and tasks with lm-eval 0.3.0, which the papers used",
        inputs={"model": True, "data": False, "tasks": False},
        estimate=estimate,
        report="eval.report:report",
    ),
)
