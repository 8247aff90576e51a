"""Reference losses: given, on the store, and forecast from other sizes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espalier.contract.paths import ROOT
from espalier.errors import InputError
from methods.sheared_llama.references import (
    EXPONENT,
    PUBLISHED,
    Measured,
    forecast,
    given_references,
    require_references,
)


def measured(parameters: int, **losses: float) -> Measured:
    tokens = dict.fromkeys(losses, 1000)
    name = f"model-{parameters}"
    return Measured(model=name, parameters=parameters, losses=losses, tokens=tokens)


def test_one_model_gives_the_power_law_of_its_size() -> None:
    found = forecast([measured(8_000, cc=2.0, wiki=1.0)], 1_000)
    assert found == pytest.approx({"cc": 2 * 8**EXPONENT, "wiki": 8**EXPONENT}, rel=1e-12)
    same = forecast([measured(8_000, cc=2.0)], 8_000)
    assert same == pytest.approx({"cc": 2.0}, rel=1e-12)


def test_two_models_lie_on_their_own_line() -> None:
    sizes = (100, 1_000, 5_000)
    models = [measured(size, cc=3 * size**-0.05, wiki=9 * size**-0.2) for size in sizes]
    found = forecast(models[:2], 20)
    assert found == pytest.approx({"cc": 3 * 20**-0.05, "wiki": 9 * 20**-0.2}, rel=1e-12)
    assert forecast(models, 20) == pytest.approx(found, rel=1e-12)


def test_a_fit_to_three_models_is_the_least_squares_line() -> None:
    sizes, losses = [10, 100, 700], [3.0, 2.2, 2.1]
    models = [measured(size, cc=loss) for size, loss in zip(sizes, losses, strict=True)]
    slope, level = np.polyfit(np.log(sizes), np.log(losses), 1)
    expected = float(np.exp(slope * np.log(5) + level))
    assert forecast(models, 5)["cc"] == pytest.approx(expected, rel=1e-9)


def test_the_published_losses_of_two_sizes_forecast_those_of_the_third() -> None:
    """The published losses were themselves extrapolated by a law with one more constant."""
    sizes = {"370m": 370_000_000, "1.3b": 1_300_000_000}
    models = [measured(size, **PUBLISHED[name]) for name, size in sizes.items()]
    assert forecast(models, 2_700_000_000) == pytest.approx(PUBLISHED["2.7b"], rel=0.02)


def test_refuses_what_gives_no_forecast() -> None:
    with pytest.raises(InputError, match="name one"):
        forecast([], 5)
    with pytest.raises(InputError, match="different sizes"):
        forecast([measured(10, cc=1.0), measured(10, cc=2.0)], 5)
    with pytest.raises(InputError, match="higher loss on cc"):
        forecast([measured(10, cc=1.0), measured(20, cc=2.0)], 5)
    with pytest.raises(InputError, match="REFERENCE_LOSSES of model-20 has no number for cc"):
        forecast([measured(10, cc=1.0), measured(20, wiki=2.0)], 5)
    with pytest.raises(InputError, match="loss on cc is 0"):
        forecast([measured(10, cc=0.0)], 5)


def test_measured_losses_come_back_from_the_store(tmp_path: Path) -> None:
    wrote = measured(123, cc=1.1 / 3, wiki=2.0)
    wrote.write(tmp_path / "reference.json")
    assert Measured.read(tmp_path / "reference.json") == wrote
    (tmp_path / "bad.json").write_text('{"model": "m", "parameters": 3, "losses": {"cc": -1}}')
    with pytest.raises(InputError, match=r"bad\.json holds no reference losses \(losses\.cc\)"):
        Measured.read(tmp_path / "bad.json")
    with pytest.raises(InputError, match="cannot be read"):
        Measured.read(tmp_path / "none.json")


def test_given_losses_are_one_for_each_domain() -> None:
    assert given_references("wiki=1.5,cc=2", ["cc", "wiki"]) == {"cc": 2.0, "wiki": 1.5}
    assert list(given_references("wiki=1.5,cc=2", ["cc", "wiki"])) == ["cc", "wiki"]
    with pytest.raises(InputError, match="gives cc a loss of -1"):
        given_references("cc=-1", ["cc"])
    with pytest.raises(InputError, match="names wiki, which the data does not have"):
        require_references({"cc": 1.0, "wiki": 1.0}, ["cc"])


def test_the_host_which_has_no_numpy_can_check_what_is_given() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('numpy', 'torch')));"
        "import methods.sheared_llama.references, methods.sheared_llama.shares"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
