from pathlib import Path

import pytest

from espalier.contract import fingerprint
from espalier.contract.fingerprint import code_hash, identify
from espalier.contract.manifest import Recipe
from espalier.errors import InputError


def _package(root: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    _package(
        tmp_path,
        {
            "methods/m/stage.py": "from espalier.deep import f\nfrom espalier.errors import E\n",
            "espalier/deep.py": '"""Doc."""\n\n\ndef f():\n    """Doc."""\n    return 1  # why\n',
            "espalier/errors.py": "E = 1\n",
            "espalier/other.py": "x = 1\n",
        },
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "source", "changes"),
    [
        ("espalier/deep.py", "def f():\n    return 2\n", True),
        ("espalier/deep.py", '"""New."""\ndef f():\n\n    return 1\n', False),
        ("espalier/errors.py", "E = 2\n", False),
        ("espalier/other.py", "x = 2\n", False),
        ("methods/m/stage.py", "from espalier.deep import f\nf()\n", True),
    ],
)
def test_code_hash_sees_what_decides(tree: Path, file: str, source: str, changes: bool) -> None:
    before = code_hash("methods.m.stage")
    (tree / file).write_text(source)
    assert (code_hash("methods.m.stage") != before) is changes


def test_a_hash_sign_in_a_string_is_no_comment(tree: Path) -> None:
    deep = tree / "espalier/deep.py"
    deep.write_text("f = 'a # b'\n")
    before = code_hash("methods.m.stage")
    deep.write_text("f = 'a # c'\n")
    assert code_hash("methods.m.stage") != before


def test_an_inputs_identity_is_its_content(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text("same")
    cache = tmp_path / "cache"
    first, second = (identify(n, tmp_path / n, cache).content for n in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "x").write_text("else")
    assert identify("b", tmp_path / "b", cache).content != first


def test_a_link_out_of_the_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").symlink_to("../blob")
    with pytest.raises(InputError, match="make adopt"):
        identify("model", tmp_path / "model", tmp_path / "cache")


def test_a_difference_is_named() -> None:
    recipe = Recipe(
        stage="wanda", code="c", lock="l", parameters={"seed": 0}, inputs={"model": "x"}
    )
    other = recipe.model_copy(update={"parameters": {"seed": 1}})
    assert recipe.fingerprint != other.fingerprint
    assert recipe.differences(other) == ["SEED 1 there, 0 here"]
    assert recipe.differences(recipe) == []
