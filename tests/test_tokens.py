"""The family `tokens`: symbols of pictures, masks and caches, draws, likelihoods, and the VQ-VAE's gradient."""

import itertools
import json
import math

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import VQModel
from PIL import Image
from test_smoke import _script, losses_of, weights_in
from transformers import GPT2LMHeadModel

from hub_models import store, tokens
from hub_models.drawing import altered_fields
from hub_models.tokens.model import Cached, next_symbols
from hub_models.tokens.pixelcnn import Rows
from tests.children import run
from training import tokens as script
from training.tokens import vq
from training.tokens.evaluation import bits_by_place, evaluate_checkpoint

KINDS = {"gpt": ("gpt2", True), "pixels": ("gpt2", False), "pixelcnn": ("pixelcnn", False)}


@pytest.fixture(scope="module", params=KINDS)
def model(request) -> tokens.Tokens:
    return tiny_models.tokens(*KINDS[request.param])


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8))


def last(steps) -> torch.Tensor:
    *_, draft = steps
    return draft.symbols


def test_a_symbol_depends_on_all_before_it_and_on_none_after(model):
    """The masks, place by place: one symbol is another one, and what is said before it stays to the bit."""
    size, count, far = model.alphabet.size, model.num_symbols, isinstance(model.model, GPT2LMHeadModel)
    read = tokens.sequence(torch.randint(size, (1, count)), torch.tensor([1]), size)
    base = tokens.logits_of(model.model, read, size).detach()  # (1, N, K)
    for place in range(1, count):
        changed = read.clone()
        changed[0, place] = (changed[0, place] + 1) % size
        said = tokens.logits_of(model.model, changed, size).detach()
        moved = (said != base).any(-1)[0]
        assert not moved[:place].any(), place
        assert moved[place] or not far and place % model.alphabet.grid[1] == 0, "what stands just left of it is seen"
    if far:
        return
    changed = read.clone()
    changed[0, 1] = (changed[0, 1] + 1) % size  # the first symbol: with 2 layers of width 3 it is seen near by
    moved = (tokens.logits_of(model.model, changed, size) != base).any(-1)[0].view(model.alphabet.grid)
    assert moved[1, 0] and moved[1, 1] and moved[0, 1], "below, and right of it"


def test_pixelcnn_has_no_blind_spot():
    """Every place above, left or right, within reach is seen (§2.2 of the paper): what masks alone would hide."""
    torch.manual_seed(0)
    model = tokens.PixelCNN(4, 1, 7, 7, channels=8, num_layers=4, kernel_size=3)
    rows = torch.zeros(1, dtype=torch.long)
    seen = torch.zeros(49, dtype=torch.bool)
    symbols = torch.zeros(1, 7, 7, dtype=torch.long)
    base = model.horizontal(symbols, model.vertical(symbols, rows), rows)[0, :, 4, 3]
    for place in range(49):
        other = symbols.clone().view(1, -1)
        other[0, place] = 1
        other = other.view(1, 7, 7)
        seen[place] = bool((model.horizontal(other, model.vertical(other, rows), rows)[0, :, 4, 3] != base).any())
    row, column = np.divmod(np.arange(49), 7)
    assert seen[(row == 4) & (column < 3)].all() and not seen[(row > 4) | (row == 4) & (column >= 3)].any()
    assert seen[(row == 3) | (row == 2)].all(), "rows above, to their right ends"


def test_cached_decoding_says_what_uncached_does(model):
    size, rows = model.alphabet.size, torch.tensor([0, model.null_label])
    symbols = torch.randint(size, (2, model.num_symbols))
    whole = tokens.logits_of(model.model, tokens.sequence(symbols, rows, size), size)  # (2, N, K)
    for start in (0, model.num_symbols // 2):
        gpt = isinstance(model.model, GPT2LMHeadModel)
        ask = Cached(model.model, size + rows) if gpt else Rows(model.model, rows)
        with torch.no_grad():
            for place in range(start, model.num_symbols):
                torch.testing.assert_close(ask(symbols, place)[:, :size], whole[:, place], rtol=1e-4, atol=1e-5)


def test_a_picture_is_its_seeds_and_labels_alone(model):
    both = last(model.sample(["a", "any"], [3, 2**63 - 1]))
    assert torch.equal(last(model.sample(["any"], [2**63 - 1])), both[1:])
    assert torch.equal(last(model.sample([0, None, "b"], [3, 4, 5]))[:1], both[:1])
    assert not torch.equal(last(model.sample(["a"], [4])), both[:1])
    assert not torch.equal(last(model.sample(["b"], [3])), both[:1])


def test_the_steps_of_a_drawing(model):
    drafts = list(model.sample(["a"], [1]))
    assert [draft.index for draft in drafts] == list(range(model.num_symbols)) and drafts[0].total == model.num_symbols
    empty = model.read([Image.new("RGB", (8, 8), "white")])
    for draft in drafts:
        at = draft.index + 1
        assert torch.equal(draft.symbols[:, :at], drafts[-1].symbols[:, :at])
        assert torch.equal(draft.symbols[:, at:], empty[:, at:])
    shown = model.pictures(drafts[-1].symbols)
    assert shown.shape == (1, 8, 8, 3) and shown.dtype == np.uint8
    steps = model.sample(["a"], [1])
    next(steps)
    steps.close()


def test_the_lower_half_is_completed_and_the_upper_kept(model):
    height, width = model.alphabet.grid
    given = model.read([picture()])
    drafts = list(model.complete(picture(), ["a", "b"], [1, 2], keep_rows=height // 2))
    kept = height // 2 * width
    assert len(drafts) == model.num_symbols - kept
    assert torch.equal(drafts[-1].symbols[:, :kept], given[:, :kept].repeat(2, 1))
    assert len(set(map(tuple, drafts[-1].symbols.tolist()))) == 2
    assert torch.equal(last(model.complete(picture(), ["a"], [1], keep_rows=0)), last(model.sample(["a"], [1])))


def test_draws_have_the_probabilities_and_their_limits():
    log_probs = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64).log()
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def shares(temperature=1.0, top_k=4):
        drawn = next_symbols(log_probs.expand(len(uniform), -1), uniform, temperature, top_k)
        return torch.bincount(drawn, minlength=4) / len(uniform)

    torch.testing.assert_close(shares(), torch.tensor([0.5, 0.2, 0.2, 0.1]), rtol=0, atol=0.01)
    squared = torch.tensor([25, 4, 4, 1]) / 34  # a temperature of a half squares them
    torch.testing.assert_close(shares(temperature=0.5), squared, rtol=0, atol=0.01)
    assert shares(top_k=1)[0] == 1 and shares(top_k=3)[3] == 0
    never = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).log()
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert next_symbols(never.expand(2, -1), ends, 1.0, 3).tolist() == [1, 1]


def test_guidance_is_of_log_probabilities(model):
    """The first symbol, against the rule worked out by hand: p(s) ∝ p(s | none) (p(s | label) / p(s | none))^w."""
    size = model.alphabet.size
    read = tokens.sequence(torch.zeros(2, model.num_symbols, dtype=torch.long), torch.tensor([2, 0]), size)
    first = tokens.logits_of(model.model, read, size)[:, 0]
    null, label = first.double().softmax(-1)
    guided = (null * (label / null) ** 3).detach()
    cumulative = (guided / guided.sum()).cumsum(0)
    for seed in range(5):
        uniform = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        drawn = next(iter(model.sample(["a"], [seed], guidance_scale=3.0))).symbols[0, 0]
        assert drawn == (cumulative <= uniform).sum()
    plain = last(model.sample([None], [0], guidance_scale=1.0))
    assert torch.equal(last(model.sample([None], [0], guidance_scale=5.0)), plain), "towards nothing"


@pytest.mark.parametrize("kind", ["gpt2", "pixelcnn"])
def test_likelihoods_are_exact_and_add_up_to_one(kind):
    """Over every picture that there is: 3 colours, 2 × 2 pixels."""
    cfg = script.PRESETS["tiny"]
    torch.manual_seed(0)
    palette = tokens.Palette([[255, 255, 255], [255, 0, 0], [0, 0, 255]], 2)
    made = script.create_model(script.dataclasses.replace(cfg, model=kind), palette, 1).eval()
    tiny_models._loud(made)
    served = tokens.Tokens(made, palette, label_names=["a"])
    all_symbols = torch.tensor(list(itertools.product(range(3), repeat=4)))  # (81, 4)
    pictures = [Image.fromarray(pixels) for pixels in served.pictures(all_symbols)]
    assert torch.equal(served.read(pictures), all_symbols)
    for label in ("a", None):
        nats = served.log_likelihood(pictures, [label] * 81)
        assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5) and nats.std() > 0.1
    bits = served.bits_per_dimension(pictures[:1], ["a"])
    assert bits.item() == pytest.approx(-served.log_likelihood(pictures[:1], ["a"]).item() / math.log(2) / 12)


def test_bits_of_what_knows_its_place_alone(model):
    class Source:
        labels, label_names = np.array([0, 0]), ["a", "b"]

        def __init__(self, *pictures):
            self.pictures = pictures

        def __len__(self):
            return len(self.pictures)

        def preload(self, _):
            pass

        def picture(self, index):
            return self.pictures[index]

    train, new = Source(picture(0), picture(0), picture(1)), Source(picture(0))
    same = (model.read([picture(0)]) == model.read([picture(1)]))[0]
    size = model.alphabet.size
    expected = -torch.where(same, math.log2(4 / (3 + size)), math.log2(3 / (3 + size))).sum() / (3 * 64)
    assert bits_by_place(model, train, new) == pytest.approx(expected.item(), rel=1e-5)


WRONG = [
    ({"labels": ["c"]}, "label 'c' is unknown"),
    ({"labels": []}, "labels for"),
    ({"seeds": [-1]}, "seed -1"),
    ({"seeds": [2**63]}, "seed"),
    ({"seeds": [1, 2]}, "1 labels for 2 seeds"),
    ({"temperature": 0.0}, "temperature 0.0"),
    ({"temperature": math.nan}, "temperature nan"),
    ({"top_k": 0}, "top_k 0"),
    ({"top_k": 17}, "from 1 to 16"),
    ({"guidance_scale": math.inf}, "guidance_scale inf"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=lambda v: str(v)[:30])
def test_what_is_out_of_range_is_said_before_the_first_step(model, change, words):
    asked = {"labels": ["a"], "seeds": [1]} | change
    with pytest.raises(ValueError, match=words):
        model.sample(**asked)
    with pytest.raises(ValueError, match=words):
        model.complete(picture(), keep_rows=1, **asked)
    with pytest.raises(ValueError, match="keep_rows"):
        model.complete(picture(), ["a"], [1], keep_rows=model.alphabet.grid[0])


def test_a_receipt_says_all_that_was_asked(model):
    made = model.receipt(["a", None], [1, 2], temperature=0.5, top_k=None, guidance_scale=2.0)
    assert made["labels"] == ["a", "any"] and made["seeds"] == ["1", "2"] and made["size"] == [8, 8]
    assert altered_fields(json.loads(json.dumps(made))) == []
    assert altered_fields(made | {"temperature": 1.0}) == ["temperature"]


# --- The VQ-VAE -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quantised() -> vq.Quantised:
    torch.manual_seed(0)
    made = vq.Quantised(vq.create_vq(script.PRESETS["tiny"]))
    made.vq.quantize.embedding.weight.data.normal_()
    return made


def test_the_gradient_passes_straight_through_the_codes(quantised):
    """That of the picture by the encoder's output is that by the code itself (van den Oord et al. 2017, §3.2)."""
    x = torch.randn(2, 3, 8, 8)
    back, latents, nearest, which = quantised(x)
    assert torch.equal(nearest, quantised.vq.quantize.embedding.weight[which])
    through = torch.autograd.grad(back.square().sum(), latents)[0]
    code = nearest.detach().permute(0, 3, 1, 2).requires_grad_()
    direct = quantised.vq.decode(code, force_not_quantize=True).sample
    torch.testing.assert_close(back, direct)
    torch.testing.assert_close(through.permute(0, 3, 1, 2), torch.autograd.grad(direct.square().sum(), code)[0])


def test_codes_are_those_of_the_stock_model(quantised):
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    codes = tokens.Codes(quantised.vq.eval(), 8)
    back, _, _, which = quantised(x)
    assert torch.equal(codes.encode(x), which.flatten(1)) and len(which.unique()) > 1
    torch.testing.assert_close(codes.decode(which.flatten(1)), quantised.vq(x).sample.clamp(-1, 1))
    torch.testing.assert_close(back.clamp(-1, 1), codes.decode(which.flatten(1)))


def test_codes_are_drawn_to_latents_and_latents_to_codes(quantised):
    """Each term moves its own side alone, and a code that nothing needs goes where latents are."""
    x, table = torch.randn(4, 3, 8, 8), quantised.vq.quantize.embedding.weight
    table.data[:2] = 100.0  # far from everything
    torch.manual_seed(0)
    loss, numbers = vq.vq_loss(quantised, x, table, commitment=0.0)
    slope = torch.autograd.grad(loss, table)[0]
    assert (slope[:2] > 0).all(), "down towards the latents"
    assert 0 < numbers["codes_used"] < 1
    [without] = torch.autograd.grad(vq.vq_loss(quantised, x, table, 0.0)[0], [quantised.vq.quant_conv.bias])
    [with_it] = torch.autograd.grad(vq.vq_loss(quantised, x, table, 2.0)[0], [quantised.vq.quant_conv.bias])
    _, latents, nearest, _ = quantised(x)
    commit = (nearest.detach() - latents).square().mean()
    [alone] = torch.autograd.grad(commit, [quantised.vq.quant_conv.bias])
    torch.testing.assert_close(with_it - without, 2 * alone, rtol=1e-3, atol=1e-4)


def test_use_of_the_codes_in_numbers(quantised):
    codes = tokens.Codes(quantised.vq.eval(), 8)
    codes.encode = lambda x: torch.tensor([[0, 0, 1, 1]]).repeat(len(x), 4)
    found = vq.measured(codes, np.zeros((2, 8, 8, 3), np.uint8))
    assert found["codes_used"] == 2 / 16 and found["perplexity"] == pytest.approx(2)


# --- Folders and runs -------------------------------------------------------------------------------------------------


def test_each_part_of_a_folder_opens_with_its_own_class(model, tmp_path):
    tokens.save_folder(tmp_path, model)
    ours = tokens.load(str(tmp_path), device="cpu")
    assert torch.equal(last(ours.sample(["a"], [1])), last(model.sample(["a"], [1])))
    assert ours.default_guidance == 2.0 and ours.parameters == model.parameters
    stock = type(model.model).from_pretrained(tmp_path)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    read = tokens.sequence(ours.alphabet.encode(x), torch.tensor([0, 1]), 16)
    torch.testing.assert_close(tokens.logits_of(stock.eval(), read, 16), tokens.logits_of(model.model, read, 16))
    if isinstance(ours.alphabet, tokens.Codes):
        opened = VQModel.from_pretrained(tmp_path, subfolder="vq")
        torch.testing.assert_close(opened(x).sample, model.alphabet.vq(x).sample)
        assert tokens.load_codes(str(tmp_path), "cpu").grid == (4, 4)


def test_parts_that_do_not_fit_are_refused(model, tmp_path):
    tokens.save_folder(tmp_path / "sound", model)
    model = tokens.load(str(tmp_path / "sound"), "cpu")
    model.label_names = ["a"]
    with pytest.raises(ValueError, match="tokens for"):
        tokens.save_folder(tmp_path / "other", model)
    path = tmp_path / "sound" / "preprocessor_config.json"
    extra = json.loads(path.read_text())
    for change, words in (({"label_names": ["a", "b", "c"]}, "tokens for"), ({"resolution_px": 32}, "symbols")):
        path.write_text(json.dumps(extra | change))
        with pytest.raises(store.CheckpointError, match=words):
            tokens.load(str(tmp_path / "sound"), "cpu")


def _run(folder, *flags, die: int = 0, code: int = 0) -> str:
    argv = ["--preset", "tiny", "--cpu", "--output_dir", str(folder), *flags]
    got, text = run(_script, "tokens", argv, die, log=folder.with_suffix(".log"))
    assert got == code, text
    return text


@pytest.mark.smoke
@pytest.mark.timeout(600)
def test_both_stages_and_a_pixelcnn_killed_resumed_exported_and_measured(tmp_path, monkeypatch):
    """The presets that the contract suite doesn't train: a VQ-VAE, GPT-2 over its codes, PixelCNN."""
    coded = ["--tokenizer_name_or_path", str(tmp_path / "vq" / "export")]
    for name, flags in {"vq": ["--model", "vq"], "gpt": coded, "pixelcnn": ["--model", "pixelcnn"]}.items():
        whole, killed = tmp_path / name, tmp_path / f"{name}-killed"
        _run(whole, *flags)
        _run(killed, *flags, die=1, code=-9)
        assert "1 steps to go" in _run(killed, *flags, "--resume_from_checkpoint", "latest")
        assert weights_in(killed / "export") == weights_in(whole / "export") and losses_of(killed) == losses_of(whole)
        store.verify(whole / "export", manifest_required=True)
    assert set(weights_in(tmp_path / "vq/export").values()) < set(weights_in(tmp_path / "gpt/export").values())
    assert len(tokens.load(str(tmp_path / "gpt/export"), "cpu").label_names) == 12
    found = evaluate_checkpoint(str(tmp_path / "vq/export"), "emoji-sample")
    assert {"validation/psnr", "heldout_pairs/codes_used", "validation/perplexity"} <= found.metrics.keys()
    usage = json.loads((tmp_path / "gpt/export/run.json").read_text())["usage"]
    known = {"torch": torch}
    exec(usage.replace("org/name", str(tmp_path / "gpt/export")), known)  # what the card says, by stock classes alone
    assert known["symbols"].shape == (1, 16) and known["symbols"].max() < 16
    assert known["vq"].config.num_vq_embeddings == 16
