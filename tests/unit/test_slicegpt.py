"""SliceGPT's computation, and both of its forms against the dense model and brute force."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from espalier.contract.pruned import Foreign, as_pruned
from espalier.errors import EnvironmentFailure, InputError
from espalier.models import sliced
from espalier.models.checkpoint.writer import CheckpointWriter
from espalier.models.decoder import Decoder
from espalier.models.gates import check_checkpoint
from espalier.models.loading import load_stock
from espalier.models.shapes import read_config
from espalier.models.sliced import PlainNorm, check_sliced, load_sliced
from espalier.models.sliced_form import SLICED, SlicedForm, sliced_config
from espalier.pruning.layers.resume import ResumeState
from eval.finite import overflowing
from methods.slicegpt import blockwise, shared
from methods.slicegpt.algorithm import (
    SecondMoment,
    kept_channels,
    principal_basis,
    random_rotation,
    rotate_inputs,
    rotate_outputs,
    shortcut,
)
from methods.slicegpt.blockwise import slice_blockwise
from methods.slicegpt.cut import Cut
from methods.slicegpt.shared import slice_shared, target_of
from methods.slicegpt.spec import SliceGPTParameters, estimate
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, make_context, make_ids

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "Mistral": {"sliding_window": 9},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
}
IDS = make_ids(samples=6, tokens=24)
PROBE = torch.arange(3, 40)[None]


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# The computation


@given(st.integers(1, 200), st.integers(1, 99), st.integers(1, 16))
def test_channels_are_those_of_exact_arithmetic(width: int, percent: int, interval: int) -> None:
    exact = (100 - percent) * width // 100
    assert kept_channels(width, percent / 100, interval) == exact - exact % interval


def test_where_the_reference_loses_a_block_to_rounding() -> None:
    assert kept_channels(640, 0.9, 8) == 64
    assert kept_channels(640, 0.9, 8, reference=True) == 56
    assert kept_channels(64, 0.25, 8, reference=True) == 48


@given(st.integers(0, 99), st.integers(2, 12))
def test_a_basis_is_orthogonal_descending_and_its_signs_are_fixed(seed: int, width: int) -> None:
    states, moment = random(seed, 3, 5, width), SecondMoment(width, "cpu")
    for part in states:
        moment.add(part)
    flat = states.reshape(-1, width)
    expected = flat.T @ flat
    assert torch.allclose(moment.matrix.triu(), expected.triu())
    basis = principal_basis(moment.matrix)
    q = basis.vectors
    assert torch.allclose(q.T @ q, torch.eye(width, dtype=torch.float64), atol=1e-10)
    assert basis.damping == pytest.approx(0.01 * float(expected.diagonal().mean()))
    damped = expected + basis.damping * torch.eye(width)
    assert torch.allclose(q @ torch.diag(basis.energies) @ q.T, damped)
    assert bool((basis.energies.diff() <= 0).all())
    assert bool((q.abs().max(dim=0).values == q.max(dim=0).values).all())
    own = torch.linalg.eigvalsh(expected).flip(0)
    assert basis.discarded(1) == pytest.approx(float(own[1:].sum() / own.sum()))


def test_random_rotations() -> None:
    one = random_rotation(9, 5, 3)
    assert torch.equal(one, random_rotation(9, 5, 3))
    assert torch.allclose(one @ one.T, torch.eye(9, dtype=torch.float64), atol=1e-12)
    others = [random_rotation(9, 5, 4), random_rotation(9, 6, 3)]
    assert not any(torch.allclose(one, other) for other in others)
    # Uniform over the orthogonal matrices: entries have mean 0, which those of the Q of a
    # uniform [0, 1) matrix have not.
    mean = torch.stack([random_rotation(3, seed, 0) for seed in range(400)]).mean(dim=0)
    assert float(mean.abs().max()) < 0.15


def test_matrices_in_another_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.slicegpt.algorithm.ELEMENTS_AT_ONCE", 30)
    q, gain, bias = random_rotation(8, 0, 0)[:, :5], random(1, 8), random(2, 8)
    reads, writes, state = random(3, 13, 8).float(), random(4, 8, 11).float(), random(5, 8)
    expected = reads.double() @ torch.diag(gain) @ q
    assert torch.allclose(rotate_inputs(reads, q, gain).double(), expected, atol=1e-6)
    assert rotate_inputs(reads.bfloat16(), q).dtype == torch.bfloat16
    assert torch.allclose(rotate_outputs(writes, q).double(), q.T @ writes.double(), atol=1e-6)
    assert torch.allclose(rotate_outputs(bias, q), q.T @ bias)
    other = random_rotation(8, 0, 1)[:, :6]
    passed = shortcut(q, other, torch.float64) @ (q.T @ state)
    assert torch.allclose(passed, other.T @ (q @ (q.T @ state)))


# Both forms of a model


def cut_of(model: Path, decoder: Decoder, **given: Any) -> Cut:
    """As the parameters ask; `kept` goes past them."""
    kept = given.pop("kept", None)
    cut = Cut.of(SliceGPTParameters(**given), decoder, IDS)
    return cut if kept is None else replace(cut, kept=kept)


def blockwise_model(model: Path, output: Path, **given: Any) -> list[dict[str, Any]]:
    decoder = Decoder(model)
    context = make_context(model, output)
    return slice_blockwise(context, decoder, cut_of(model, decoder, **given), IDS, None)


def shared_model(model: Path, output: Path, **given: Any) -> Cut:
    decoder = Decoder(model)
    cut = cut_of(model, decoder, shared=True, **given)
    slice_shared(make_context(model, output), decoder, cut, IDS, None)
    return cut


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The directions left at each site, in the order in which they are found."""
    found: list[Tensor] = []
    directions = Cut.directions

    def remembered(cut: Cut, *given: Any) -> Tensor:
        found.append(directions(cut, *given))
        return found[-1]

    monkeypatch.setattr(Cut, "directions", remembered)
    return found


@contextmanager
def projected(model: Any, sites: list[Tensor]) -> Iterator[Any]:
    """The dense stock model whose stream is projected after the embedding and every half layer."""
    onto = [(vectors @ vectors.T).float() for vectors in sites]  # [D, D] each
    hooks = [model.model.embed_tokens.register_forward_hook(lambda m, given, out: out @ onto[0])]
    attended: dict[Any, Tensor] = {}

    def keep(attention: Any, given: Any, output: Any) -> None:
        attended[attention] = output[0]

    def anew(layer: Any, inner: Tensor, outer: Tensor, given: Tensor) -> Tensor:
        """The layer's output, with the stream projected between its halves and after them."""
        stream = (given + attended[layer.self_attn]) @ inner
        return (stream + layer.mlp(layer.post_attention_layernorm(stream))) @ outer

    for number, layer in enumerate(model.model.layers):
        inner, outer = onto[2 * number + 1 : 2 * number + 3]
        hooks.append(layer.self_attn.register_forward_hook(keep))
        hooks.append(
            layer.register_forward_hook(
                lambda m, given, out, inner=inner, outer=outer: anew(m, inner, outer, given[0])
            )
        )
    yield model
    for hook in hooks:
        hook.remove()


def logits(model: Any, ids: Tensor = PROBE) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(ids, use_cache=False).logits
    return found


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return float((one - other).abs().max()) <= tolerance * float(other.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("orientation", ["pca", "random"])
def test_sliced_is_the_dense_model_with_its_stream_projected(
    tmp_path: Path, bases: list[Tensor], family: str, orientation: str
) -> None:
    stock = make_checkpoint(tmp_path / "m", family, initializer_range=0.3, **FAMILIES[family])
    records = blockwise_model(tmp_path / "m", tmp_path / "o", orientation=orientation)
    config = read_config(tmp_path / "o")
    assert (config["model_type"], config["sliced_size"]) == (SLICED, 24)
    ours = load_sliced(tmp_path / "o")
    with projected(stock, bases):
        assert close(logits(ours), logits(stock))
    assert not close(logits(ours), logits(load_stock(tmp_path / "m")), 1e-3)
    sites = [site for record in records for site in record["sites"].values()]
    assert len(bases) == len(sites) == 5
    assert [len(site["eigenvalues"]) for site in sites] == [32] * 5
    assert [vectors.shape[1] for vectors in bases] == [24, 24, 24, 24, 32]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rotation_that_cuts_nothing_changes_nothing(tmp_path: Path, family: str) -> None:
    stock = make_checkpoint(tmp_path / "m", family, initializer_range=0.3, **FAMILIES[family])
    blockwise_model(tmp_path / "m", tmp_path / "o", kept=32)
    assert close(logits(load_sliced(tmp_path / "o")), logits(stock))
    shared_model(tmp_path / "m", tmp_path / "s", kept=32)
    assert close(logits(load_stock(tmp_path / "s")), logits(stock))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_basis_is_a_stock_model_and_the_same_projection(
    tmp_path: Path, bases: list[Tensor], family: str
) -> None:
    stock = make_checkpoint(tmp_path / "m", family, initializer_range=0.3, **FAMILIES[family])
    cut = shared_model(tmp_path / "m", tmp_path / "o")
    (vectors,) = bases
    small = load_stock(tmp_path / "o")
    assert (small.config.hidden_size, small.config.tie_word_embeddings) == (24, False)
    with projected(stock, [vectors] * 5):
        assert close(logits(small), logits(stock))
    check_checkpoint(tmp_path / "o")
    after = target_of(cut)
    stored = load_all(tmp_path / "o")
    assert sum(t.numel() for t in stored.values() if t.dim() > 1) == after.parameters


def test_each_basis_is_of_what_is_sliced_below_it(tmp_path: Path, bases: list[Tensor]) -> None:
    """The eigenvalues again, from a whole dense model projected as far as it has come."""
    stock = make_checkpoint(tmp_path / "m", initializer_range=0.3)
    records = blockwise_model(tmp_path / "m", tmp_path / "o")
    found = [s["eigenvalues"] for record in records for s in record["sites"].values()]
    stream = stock.model.embed_tokens(IDS)
    positions = torch.arange(IDS.shape[1])[None]
    rotary = stock.model.rotary_emb(stream, positions)
    site = 0

    def taken(signal: Tensor) -> Tensor:
        nonlocal site
        flat = signal.detach().double().reshape(-1, 32)
        h = flat.T @ flat
        h += 0.01 * h.diagonal().mean() * torch.eye(32)
        assert torch.linalg.eigvalsh(h).flip(0).tolist() == pytest.approx(found[site], rel=1e-5)
        p = (bases[site] @ bases[site].T).float()
        site += 1
        return signal @ p

    with torch.inference_mode():
        stream = taken(stream)
        for layer in stock.model.layers:
            given = layer.input_layernorm(stream)
            attended = layer.self_attn(
                hidden_states=given, attention_mask=None, position_embeddings=rotary
            )[0]
            stream = taken(stream + attended)
            stream = taken(stream + layer.mlp(layer.post_attention_layernorm(stream)))
    assert site == len(found) == 5


def test_every_site_has_the_same_say_in_a_shared_basis(tmp_path: Path, bases: list[Tensor]) -> None:
    stock = make_checkpoint(tmp_path / "m", initializer_range=0.3)
    shared_model(tmp_path / "m", tmp_path / "o")
    states: list[Tensor] = []
    for layer in stock.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    stock.model.norm.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    logits(stock, IDS)
    eps = stock.config.rms_norm_eps
    unit = [(x / (x.square().mean(-1, keepdim=True) + eps).sqrt()).double() for x in states]
    total = sum(x.reshape(-1, 32).T @ x.reshape(-1, 32) for x in unit)
    expected = torch.linalg.eigh(total).eigenvectors.flip(1)[:, :24]
    assert torch.allclose((expected.T @ bases[0]).abs(), torch.eye(24).double(), atol=1e-4)


def test_the_reference_centres_embeddings_and_has_its_own_eps(tmp_path: Path) -> None:
    stock = make_checkpoint(tmp_path / "m", rms_norm_eps=1e-2)
    blockwise_model(tmp_path / "m", tmp_path / "o", reference=True, kept=32)
    assert read_config(tmp_path / "o")["rms_norm_eps"] == 1e-5
    embeddings = stock.model.embed_tokens.weight.data
    embeddings -= embeddings.mean(dim=1, keepdim=True)
    for norm in stock.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.variance_epsilon = 1e-5
    assert close(logits(load_sliced(tmp_path / "o")), logits(stock))
    blockwise_model(tmp_path / "m", tmp_path / "mended")
    assert read_config(tmp_path / "mended")["rms_norm_eps"] == 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits(tmp_path: Path, dtype: Any) -> None:
    make_checkpoint(tmp_path / "m", dtype=dtype, tie_word_embeddings=True, initializer_range=0.1)
    wide = make_checkpoint(tmp_path / "w", tie_word_embeddings=True, initializer_range=0.1)
    wide.load_state_dict(load_stock(tmp_path / "m", torch.float32).state_dict())
    wide.save_pretrained(tmp_path / "w")
    blockwise_model(tmp_path / "m", tmp_path / "o")
    blockwise_model(tmp_path / "w", tmp_path / "wo")
    assert all(t.dtype == dtype for t in load_all(tmp_path / "o").values())
    expected = logits(load_sliced(tmp_path / "wo"))
    ours = load_sliced(tmp_path / "o")
    assert ours.dtype == dtype
    assert close(logits(ours).float(), expected, 0.05)
    shared_model(tmp_path / "m", tmp_path / "s")
    shared_model(tmp_path / "w", tmp_path / "ws")
    narrow = logits(load_stock(tmp_path / "s", torch.float32))
    assert close(narrow, logits(load_stock(tmp_path / "ws")), 0.02)
    check_checkpoint(tmp_path / "s")


def test_what_a_rounded_gain_loses_the_matrices_have(tmp_path: Path) -> None:
    """sqrt(32 / 24) is 1.1547, and in bfloat16 1.1562: all logits would be 0.13 % too large."""
    make_checkpoint(tmp_path / "m", dtype=torch.bfloat16, initializer_range=0.1)
    shared_model(tmp_path / "m", tmp_path / "o")
    decoder, found = Decoder(tmp_path / "m"), load_all(tmp_path / "o")
    assert found["model.norm.weight"].unique().tolist() == [1.15625]
    cut = cut_of(tmp_path / "m", decoder, shared=True)
    moment = ResumeState.load(tmp_path / "o" / ".run" / "scratch").carried[shared.MOMENT]
    vectors = cut.directions(principal_basis(moment), 0)
    gain = decoder.reader.read("model.norm.weight").double()
    head = decoder.reader.read("lm_head.weight").double() * gain @ vectors * (32 / 24) ** 0.5
    ratio = found["lm_head.weight"].double() * 1.15625 / head
    assert float(ratio.median()) == pytest.approx(1, abs=2e-4)


# Around them


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["blockwise", "shared"])
@pytest.mark.parametrize("fail_at", [0, 1, 2, "write"])
def test_a_killed_run_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fail_at: int | str
) -> None:
    make_checkpoint(tmp_path / "m", num_hidden_layers=3, tie_word_embeddings=True)
    make = {"blockwise": blockwise_model, "shared": shared_model}[kind]
    visitor: Any = {"blockwise": blockwise._Slicing, "shared": shared._Moments}[kind]
    make(tmp_path / "m", tmp_path / "whole")
    visit, visited, finish = visitor.visit, [], CheckpointWriter.finish

    def dying(self: Any, step: Any) -> Any:
        record = visit(self, step)
        if step.number == fail_at:
            raise _KilledError
        return record

    def dies(self: Any) -> None:
        raise _KilledError

    with monkeypatch.context() as patched, pytest.raises(_KilledError):
        patched.setattr(visitor, "visit", dying)
        if fail_at == "write":
            patched.setattr(CheckpointWriter, "finish", dies)
        make(tmp_path / "m", tmp_path / "o")

    def counted(self: Any, step: Any) -> Any:
        visited.append(step.number)
        return visit(self, step)

    monkeypatch.setattr(visitor, "visit", counted)
    assert CheckpointWriter.finish is finish
    make(tmp_path / "m", tmp_path / "o")
    assert visited == ([] if fail_at == "write" else list(range(int(fail_at), 3)))
    files = [
        {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "o")
    ]
    assert files[0] == files[1]


def test_an_embedding_that_was_lost_with_its_file_is_made_again(tmp_path: Path) -> None:
    """The first layer writes it; a state that is past that layer is of no use without."""
    make_checkpoint(tmp_path / "m", num_hidden_layers=3)
    blockwise_model(tmp_path / "m", tmp_path / "o")
    context = make_context(tmp_path / "m", tmp_path / "p")
    decoder = Decoder(tmp_path / "m")
    context.scratch.mkdir(parents=True)
    ResumeState(3, [{}, {}, {}], None, {"stream": torch.eye(32)}).save(context.scratch)
    slice_blockwise(context, decoder, cut_of(tmp_path / "m", decoder), IDS, None)
    one, other = load_all(tmp_path / "o"), load_all(tmp_path / "p")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_change_no_more_than_rounding(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", initializer_range=0.3)
    decoder, found = Decoder(tmp_path / "m"), []
    for batch in (1, None):
        context = make_context(tmp_path / "m", tmp_path / f"{batch}")
        slice_blockwise(context, decoder, cut_of(tmp_path / "m", decoder), IDS, batch)
        found.append(logits(load_sliced(tmp_path / f"{batch}")))
    assert close(found[0], found[1])


def test_the_gate_runs_the_form_and_the_loader_reads_only_it(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", initializer_range=0.3)
    blockwise_model(tmp_path / "m", tmp_path / "o")
    ids = torch.arange(16) * 7 % 96
    found = logits(load_sliced(tmp_path / "o"), ids[None])[0]
    expected = float(torch.nn.functional.cross_entropy(found[:-1], ids[1:]))
    assert check_sliced(tmp_path / "o")["probe_loss"] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(InputError, match="is not of the form espalier-sliced"):
        load_sliced(tmp_path / "m")
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    (tmp_path / "o" / "config.json").write_text(json.dumps(config | {"sliced_size": 16}))
    with pytest.raises(InputError, match=r"has shape .* where its config.json describes"):
        load_sliced(tmp_path / "o")
    with pytest.raises(InputError, match="keeps 33 of 32 channels"):
        SlicedForm.of(config | {"sliced_size": 33})


def test_an_older_transformers_is_told_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliced.transformers, "__version__", "4.46.2")
    with pytest.raises(EnvironmentFailure, match="use image eval"):
        load_sliced(tmp_path)


def test_hidden_states_are_recorded_and_tokens_generated(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", initializer_range=0.3)
    blockwise_model(tmp_path / "m", tmp_path / "o")
    ours = load_sliced(tmp_path / "o")
    assert "the logits" in str(overflowing(ours, PROBE[0]))
    generated = ours.generate(PROBE[:, :5], max_new_tokens=6, do_sample=False, pad_token_id=0)
    without = PROBE[:, :5]
    for _ in range(6):
        without = torch.cat([without, logits(ours, without)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generated, without)  # with a cache of keys and values as without


def test_a_norm_without_a_gain_is_the_stock_one_of_the_parent() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    states = random(0, 2, 3, 32).to(torch.bfloat16)
    assert torch.equal(PlainNorm(32, 1e-5)(states), LlamaRMSNorm(32, 1e-5).bfloat16()(states))
    padded = torch.cat([states[..., :24], torch.zeros(2, 3, 8)], dim=-1).to(torch.bfloat16)
    assert torch.equal(PlainNorm(32, 1e-5)(states[..., :24]), PlainNorm(32, 1e-5)(padded)[..., :24])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sparsity": 0.9}, "SPARSITY=0.9 leaves 3 of 32 channels, less than ROUND=8; give"),
        ({"round": 7}, "ROUND=7 does not divide the model's 32 channels; give ROUND=1 or"),
        ({"round": 12}, "ROUND=12 does not divide the model's 32 channels; give ROUND=4 or"),
        (
            {"sparsity": 0.9, "shared": True},
            "SPARSITY=0.9 leaves 3 of 32 channels, less than ROUND=8; give a smaller",
        ),
        (
            {"sparsity": 0.9, "shared": True, "round": 1},
            "less than ROUND=4, which SHARED=1 makes a multiple of the 4 heads; give a smaller",
        ),
    ],
    ids=["too-little", "odd", "even", "shared", "heads"],
)
def test_what_cannot_be_left_is_refused(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    make_checkpoint(tmp_path / "m")
    with pytest.raises(InputError, match=says):
        cut_of(tmp_path / "m", Decoder(tmp_path / "m"), **given)


def test_tokens_too_few_for_a_basis_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    decoder, parameters = Decoder(tmp_path / "m"), SliceGPTParameters()
    with pytest.raises(InputError, match="has 31 tokens, which span no more directions, and the"):
        Cut.of(parameters, decoder, torch.arange(31)[None])
    with pytest.raises(InputError, match="has 10 different tokens, whose embeddings span no more"):
        Cut.of(parameters, decoder, torch.arange(40)[None] % 10)
    Cut.of(SliceGPTParameters(shared=True), decoder, torch.arange(40)[None] % 10)


def test_parameters() -> None:
    with pytest.raises(InputError, match="no shared basis; leave out SHARED=1 or REFERENCE=1"):
        SliceGPTParameters(shared=True, reference=True)
    assert SliceGPTParameters().label() == "0.25"
    assert SliceGPTParameters(sparsity=0.3, shared=True, orientation="random").label() == (
        "shared-random-0.3"
    )
    words = {"SPARSITY": "0.5", "ORIENTATION": "random", "SEED": "7", "SHARED": "1"}
    assert SliceGPTParameters.from_assignments(words).seed == 7
    with pytest.raises(InputError, match="ORIENTATION=best"):
        SliceGPTParameters.from_assignments({"ORIENTATION": "best"})


def test_the_estimate_grows_with_the_sites() -> None:
    config = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    }  # fmt: skip
    whole, one = (estimate(SliceGPTParameters(shared=s), config) for s in (False, True))
    assert 3 << 30 < whole.memory < 6 << 30
    assert one.seconds < whole.seconds


def test_an_account_of_a_rotation() -> None:
    account = as_pruned(
        {
            "kind": "uniform", "achieved": 0.2, "rotated": True, "kept": {"layers": [0, 1]},
            "before": {"layers": 2, "hidden": 32, "intermediate": 44, "heads": 4, "kv_heads": 2},
            "after": {"layers": 2, "hidden": 24, "intermediate": 44, "heads": 4, "kv_heads": 2},
        }
    )  # fmt: skip
    assert str(account).startswith("width: 20.0% removed; left 2 layers, 24 hidden")


def test_the_form_says_what_it_is(tmp_path: Path) -> None:
    config = sliced_config({"model_type": "llama", "hidden_size": 32}, 24, 1e-6)
    assert config["stock_model_type"] == "llama"
    assert config["tie_word_embeddings"] is False
    make_checkpoint(tmp_path / "m")
    blockwise_model(tmp_path / "m", tmp_path / "o")
    account = Foreign(form=SLICED, description="", image="eval", achieved=0.1)
    assert check_checkpoint(tmp_path / "o", pruning=account)["index_complete"]
    with pytest.raises(InputError, match="model_type espalier-sliced is not supported"):
        Decoder(tmp_path / "o")
