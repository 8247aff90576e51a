"""Files as an attacker or a broken disk leaves them: good ones, a few places of them spoilt."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from espalier.errors import InputError

RAW = {
    "<1e999>": "1e999",
    "<-1e999>": "-1e999",
    "<NaN>": "NaN",
    "<endless>": "9" * 5000,
    "<deep>": "[" * 20_000 + "]" * 20_000,
    "<deep objects>": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "<cut>": "",
}
"""What Python's own writer of JSON cannot say, by what stands for it."""
ABSURD = st.one_of(
    st.sampled_from([*RAW, -1, 0, 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 10**299]),
    st.sampled_from([1e30, -1.5, 0.5, 1e300, True, False, None, "", "x", "../../etc/passwd", "/"]),
    st.sampled_from(["\n\x1b[2J", "\ud800", "a\0b", "ü" * 300, [], {}, [[]], {"": {}}, [[[[-1]]]]]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(-2, 2**63), max_size=4),
)
"""Values that hardly any place of a file can have."""


@st.composite
def spoilt(draw: Callable[..., Any], good: Any) -> Any:
    """`good` with up to three places of it replaced, taken away or doubled."""
    value = deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(value)) or [([value], 0)]))
        what = draw(st.sampled_from(["replace", "replace", "remove", "wrap"]))
        if what == "remove":
            del holder[key]
        else:
            holder[key] = deepcopy(draw(ABSURD)) if what == "replace" else [holder[key]]
    return draw(ABSURD) if draw(st.integers(0, 30)) == 0 else value


def text_of(value: Any) -> bytes:
    """As JSON, with what no writer writes in its places."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text.encode()


@contextmanager
def one_sentence() -> Iterator[None]:
    """Nothing happens, or one sentence is said: exit 2, no traceback, nothing for a terminal."""
    try:
        yield
    except InputError as error:
        assert error.exit_code == 2
        assert str(error).endswith("."), error
        assert str(error).isprintable(), error
        assert len(str(error)) < 1200, error


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key below a value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
