"""The hash of a stage's code sees what decides and nothing else; an input's, its content."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract import code
from espalier.contract.code import bare, code_hash, hashed_files, stage_modules
from espalier.contract.discovery import stages
from espalier.contract.fingerprint import identify
from espalier.contract.paths import PACKAGES, ROOT
from espalier.errors import InputError
from espalier.host.runtimes.local import ENVIRONMENTS

STAGE = """from espalier.deep import f
from espalier.errors import E
KIND = "methods.m.named"
SECOND = "methods.m.other:run"
LIST = "list.toml"
"""
DEEP = '''"""Doc."""


X = 1
"""Of the constant."""


def f():
    """Doc."""
    return 1  # why
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(code, "ROOT", tmp_path)
    sources = {
        "methods/__init__.py": '"""Doc."""\n',
        "methods/m/__init__.py": "",
        "methods/m/stage.py": STAGE,
        "methods/m/named.py": "import espalier.late\n",
        "methods/m/other.py": "x = 1\n",
        "methods/m/list.toml": "x = 1\n",
        "methods/m/spec.py": 'ENTRY = "methods.m.unused:run"\n',
        "methods/m/unused.py": "x = 1\n",
        "espalier/deep.py": DEEP,
        "espalier/late.py": "x = 1\n",
        "espalier/errors.py": "E = 1\n",
        "espalier/other.py": "x = 1\n",
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "source", "changes"),
    [
        ("espalier/deep.py", DEEP.replace("return 1", "return 2"), True),
        ("espalier/deep.py", DEEP.replace("X = 1", "X = 2"), True),
        ("espalier/deep.py", DEEP.replace("Doc", "New"), False),
        ("espalier/deep.py", DEEP.replace("Of the constant", "What\n\nit is"), False),
        ("espalier/deep.py", DEEP.replace("why", "because"), False),
        ("espalier/deep.py", DEEP.replace("\n\n\n", "\n\n"), False),
        ("espalier/errors.py", "E = 2\n", False),
        ("espalier/other.py", "x = 2\n", False),
        ("espalier/late.py", "x = 2\n", True),
        ("methods/m/named.py", "x = 2\n", True),
        ("methods/m/other.py", "x = 2\n", True),
        ("methods/m/list.toml", "x = 2\n", True),
        ("methods/m/unused.py", "x = 2\n", False),
        ("methods/m/__init__.py", '"""Doc."""\n', False),
        ("methods/m/__init__.py", "x = 1\n", True),
        ("methods/m/stage.py", STAGE + "f()\n", True),
    ],
)
def test_code_hash_sees_what_decides(tree: Path, file: str, source: str, changes: bool) -> None:
    before = code_hash("methods.m.stage", "methods.m.spec")
    (tree / file).write_text(source)
    assert (code_hash("methods.m.stage", "methods.m.spec") != before) is changes


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("f = 'a # b'\n", "f = 'a # b'"),
        ("f = 1  # ä\n", "f = 1"),
        ("ä = 1; 'ü'\n", "ä = 1;"),
        ("def f(): 'doc'\n", "def f():"),
        ("'one' 'two'\nx = 1\n", "x = 1"),
        ("x = ('kept'\n     'too')\n", "x = ('kept'\n     'too')"),
        ("f'{1}'\n", "f'{1}'"),
        ('"""a\n# no comment\n"""  # one\nx = 1\n', "x = 1"),
        ('x = """\n# kept\n"""\n', 'x = """\n# kept\n"""'),
        ("'''a\n''' ; x = 1\n", " ; x = 1"),
    ],
)
def test_what_is_left_of_a_source(source: str, left: str) -> None:
    assert bare(source) == left


@given(st.text(st.characters(exclude_characters="\\\r\n\x0c'\"", exclude_categories=["C"])))
def test_any_wording_leaves_the_same(text: str) -> None:
    assert bare(f"x = 1  # {text}\n'''{text} '''\ny = 2\n") == "x = 1\ny = 2"


def test_every_file_of_a_stage_is_ours() -> None:
    for stage in stages().values():
        files = hashed_files(*stage_modules(stage))
        assert {stage.entry.partition(":")[0], stage.parameters.__module__} <= files.keys()
        for path in files.values():
            assert path.relative_to(ROOT).parts[0] in (*PACKAGES, "models.toml"), path


def test_other_versions_of_python_see_the_same() -> None:
    files = sorted(hashed_files("inputs.sapling.stage", "training.tpu_maxtext.stage").values())
    script = (
        "import json, sys; from pathlib import Path; from espalier.contract.code import bare\n"
        "texts = [bare(Path(name).read_text()) for name in sys.argv[1:]]\n"
        "print(json.dumps([sys.version_info[1], *texts]))"
    )
    seen = {}
    for python in sorted(ENVIRONMENTS.glob("test-*/bin/python")):
        command = [python, "-c", script, *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            version, *texts = json.loads(done.stdout)
            seen[version] = texts
    if len(seen) < 2:
        pytest.skip("no two versions of Python have an image's packages here")
    assert all(texts == next(iter(seen.values())) for texts in seen.values())


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
