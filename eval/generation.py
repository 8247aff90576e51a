"""Texts that are continued with the likeliest tokens, as lm-eval 0.4.13 asks for them.

What one token is followed by is a request like any other: nothing is kept from token to token but
what the texts have in common, so that each costs a run through all that stands before it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from espalier.contract.json_text import read_json
from espalier.errors import InputError
from eval.requests.request import Request, prompt

NEW_TOKENS = 256
"""At most, where a task says nothing; lm-eval's own."""
LOOK_BACK = 2
"""Tokens more than a stop text has by itself: what a model writes may be tokens of another cut."""
GREEDY = {"do_sample": False, "temperature": 0.0}

Likeliest = Callable[[Sequence[Request]], list[int]]
"""The token that follows each of some prompts."""


@dataclass
class Continuation:
    """A text that is being continued.

    Attributes:
        context: token ids.
        most: new tokens.
        until: texts that end it.
        new: token ids so far.
    """

    context: list[int]
    most: int
    until: list[str]
    new: list[int] = field(default_factory=list)
    ended: bool = False

    def request(self, window: int) -> Request:
        """What the next token is asked by: the whole text, but for what has no room."""
        start = prompt(self.context, window, self.most)
        kept = [*start.inputs.tolist(), *self.new]
        return prompt(kept, window, 1)

    def take(self, token: int, tokenizer: Any, ends: Iterable[int]) -> None:
        """Go on with a token, and end where that is the end."""
        if token in ends:
            self.ended = True
            return
        self.new.append(token)
        self.ended = len(self.new) >= self.most or any(
            text in tokenizer.decode(self.new[-_width(text, tokenizer) :]) for text in self.until
        )


def greedy_settings(
    asked: Mapping[str, Any], window: int, end: str | None
) -> tuple[int, list[str]]:
    """How many tokens at most, and the texts that end one, of what a task asks for.

    Args:
        asked: the task's `generation_kwargs`.
        window: tokens that the model takes.
        end: the end token, written out.

    Raises:
        InputError: it is to be sampled, searched, or longer than the window.
    """
    given = dict(normalize_gen_kwargs(dict(asked), NEW_TOKENS))
    until = handle_stop_sequences(given.pop("until", None), eos=end)
    most = int(given.pop("max_gen_toks"))
    if other := {name: value for name, value in given.items() if GREEDY.get(name) != value}:
        words = ", ".join(f"{name}={value}" for name, value in other.items())
        raise InputError(
            f"a task asks for {words}, and BACKEND=jax generates the likeliest tokens; give "
            "BACKEND=torch or hf, or leave the task out."
        )
    if not 1 <= most < window:
        raise InputError(
            f"a task asks for {most} new tokens, and the model has {window} positions for them and "
            "their context; leave the task out."
        )
    return most, [text for text in until if text]


def end_ids(checkpoint: Path) -> frozenset[int]:
    """The ids that end what a model generates: of generation_config.json, else of config.json.

    Raises:
        InputError: a file is no JSON.
    """
    files = (checkpoint / name for name in ("generation_config.json", "config.json"))
    stated = (read_json(file).get("eos_token_id") for file in files if file.is_file())
    found = next((ids for ids in stated if ids is not None), ())
    return frozenset(found if isinstance(found, list | tuple) else [found])


def continue_texts(
    texts: Sequence[Continuation],
    tokenizer: Any,
    window: int,
    ends: Iterable[int],
    likeliest: Likeliest,
) -> list[str]:
    """Of each text what follows it, up to the first text that ends it.

    Args:
        texts: to be continued.
        tokenizer: of the model.
        window: tokens that the model takes.
        ends: ids that end every text.
        likeliest: asks the model.
    """
    ends = frozenset(ends)
    while running := [text for text in texts if not text.ended]:
        tokens = likeliest([text.request(window) for text in running])
        for text, token in zip(running, tokens, strict=True):
            text.take(token, tokenizer, ends)
    return [
        postprocess_generated_text(
            tokenizer.decode(text.new, skip_special_tokens=True), text.until, None
        )
        for text in texts
    ]


def _width(text: str, tokenizer: Any) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False)) + LOOK_BACK
