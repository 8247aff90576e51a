"""The page of a report: whole, offline, escaped; in a browser it sorts and fits a phone."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from espalier.contract.store import Store
from espalier.host.commands.made_by import command_line
from eval.reporting.collected import collect
from eval.reporting.page import page
from eval.reporting.tables import Cell, Table, text
from eval.reporting.write import write_report
from tests.unit.reported import a_store, evaluate, model, record_of

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;</style>"
LOADS = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction"}
EMPTY = {"meta", "br", "img", "input", "link"}


class Elements(HTMLParser):
    """Every element with its attributes, the text of the page, and whether all is closed."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(written)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.found]


def written(store: Path, folder: Path) -> Path:
    folder.mkdir()
    write_report(collect(Store(store)), "all", folder, command_line)
    return folder


def test_the_page_holds_every_checkpoint_and_loads_nothing(tmp_path: Path) -> None:
    a_store(tmp_path / "store")
    html = (written(tmp_path / "store", tmp_path / "report") / "report.html").read_text()
    seen = Elements(html)
    assert not seen.open
    assert "://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert not [(tag, set(has) & LOADS) for tag, has in seen.found if set(has) & LOADS]
    assert not {"link", "img", "iframe", "object"} & set(seen.tags())
    assert "Content-Security-Policy" in html
    said = " ".join(seen.words)
    for shown in ("llama2-7b", "half", "5.130 ± 0.100", "✓ within", "✗ outside", "○ not run"):
        assert shown in said
    assert seen.tags().count("svg") == 2 * 3 + 1  # two scores against three costs, half's layers
    assert "prefers-color-scheme: dark" in html
    heads = [has for tag, has in seen.found if tag == "th" and has.get("scope") == "col"]
    assert heads
    assert all(has["aria-sort"] == "none" for has in heads)


def test_what_names_hold_is_text(tmp_path: Path) -> None:
    table = Table.of(EVIL, [EVIL, "n"], [[text(EVIL), Cell(EVIL, 1)]], [EVIL])
    seen = Elements(page(EVIL, EVIL, [table]))
    assert seen.tags().count("script") == 1  # the page's own
    assert "img" not in seen.tags()
    assert " ".join(seen.words).count(EVIL) == 8
    assert ("th", {"scope": "row", "data-value": EVIL, "class": "words"}) in seen.found


def test_what_a_results_file_holds_is_text(tmp_path: Path) -> None:
    store = tmp_path / "store"
    half = a_store(store)
    results = evaluate(store, half, 6.0, 0.5, suite="evil") / "results.json"
    results.write_text(results.read_text().replace("boolq", "<script>x</script>"))
    folder = written(store, tmp_path / "report")
    assert Elements((folder / "report.html").read_text()).tags().count("script") == 1
    assert "<script>" not in (folder / "report.md").read_text()


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    a_store(tmp_path / "store")
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (written(tmp_path / "store", tmp_path / name) for name in ("one", "two"))
    ]
    assert files[0] == files[1]
    assert {str(path) for path in files[0]} == {
        *("report.html", "report.md", "report.csv"),
        *("cards/models/llama2-7b/README.md", "cards/checkpoints/half/README.md"),
    }


LOOKS = """
<script>
const button = document.querySelectorAll("thead th")[1].firstElementChild;
const names = () => [...document.querySelector("tbody").rows].map((r) => r.cells[0].textContent);
const seen = [document.documentElement.scrollWidth <= innerWidth];
for (let turn = 0; turn < 2; turn++) {
  button.focus(); button.click();
  seen.push(button.parentElement.getAttribute("aria-sort"), names().join(" "));
}
parent.postMessage(seen.join(";"), "*");
</script>
"""
FRAME = """<body>
<script>addEventListener("message", (e) => {{ document.title = e.data; }});</script>
<iframe src="{}" style="width:{}px;height:800px;border:0"></iframe></body>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium to open the page in")
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser_it_sorts_and_nothing_is_wider_than_the_page(
    tmp_path: Path, width: int
) -> None:
    store = tmp_path / "store"
    half = a_store(store)
    model(
        store, "a-name-that-is-long-" * 6 + "and-longer", model={"parameters": 500, "nonzero": 9},
        inputs={"model": record_of(store, half)},
    )  # fmt: skip
    html = written(store, tmp_path / "report") / "report.html"
    html.write_text(html.read_text().replace("</body>", f"{LOOKS}</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(html.as_uri(), width))
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
         f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    fits, first, up, second, down = (
        done.stdout.partition("<title>")[2].partition("</title>")[0].split(";")
    )
    assert fits == "true"
    assert (first, second) == ("ascending", "descending")
    assert up.startswith("a-name-that-is-long-")
    assert down.endswith(up.split()[0])
