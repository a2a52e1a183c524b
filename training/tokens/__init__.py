"""Pictures as sequences: a VQ-VAE and a GPT over its codes, a GPT over pixels in a palette, or a PixelCNN.

    python -m training.tokens --output_dir runs/tokens-vq                                       # first the codes,
    python -m training.tokens --preset gpt --tokenizer_name_or_path runs/tokens-vq/export       # then GPT-2 over them
    python -m training.tokens --preset pixels --output_dir runs/tokens-pixels                   # iGPT: no VQ-VAE, 16 px
    python -m training.tokens --preset pixelcnn --output_dir runs/tokens-pixelcnn               # masked convolutions

van den Oord et al. 2017 (VQ-VAE), Ramesh et al. 2021 (DALL·E: codes after what is asked for, which is a class here),
Chen et al. 2020 (iGPT), van den Oord et al. 2016 (PixelCNN), Ho & Salimans 2022 (classifier-free guidance).

Letters: B batch, R side of the picture in pixels, N symbols of a picture out of K.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from hub_models import tokens as contract
from hub_models.pictures import from_uint8, to_uint8
from training import figures
from training.config import TrainConfig, parse, require_resolution
from training.data.sources import Source
from training.drawn import clean_picture, picture_tensor
from training.optim import Player, slower
from training.task import Card, Task, opened_pair, run, some, with_model
from training.tokens import vq
from training.tokens.evaluation import draw, mean_bits
from training.tokens.evaluation import evaluate_checkpoint as evaluate_checkpoint

STEM = "tokens"
USAGE = """from transformers import GPT2LMHeadModel

gpt = GPT2LMHeadModel.from_pretrained("org/name")
label = torch.tensor([[{first}]])  # {first} is {name}, …, {last} no class in particular
symbols = gpt.generate(label, do_sample=True, max_new_tokens={count}, min_new_tokens={count},
                       suppress_tokens=list(range({first}, {last} + 1)), top_k=0)[:, 1:]  # {h} × {w} in raster order"""


@dataclass(frozen=True)
class TokensConfig(TrainConfig):
    """One experiment: a VQ-VAE, or a model over its codes or over the colours of a palette."""

    model: Literal["vq", "gpt2", "pixelcnn"] = "gpt2"
    shift_px: int = 2  # pictures are moved by up to so many pixels either way
    # Symbols
    tokenizer_name_or_path: str | None = None  # folder or Hub id of a VQ-VAE whose codes are learned; None: a palette
    vocabulary: int = 64  # K: colours of the palette, or codes of a VQ-VAE that is trained
    # VQ-VAE
    block_out_channels: tuple[int, ...] = (24, 40, 56)  # finest first; n of them reduce by 2**(n - 1)
    norm_num_groups: int = 8
    code_dim: int = 8  # numbers of a code
    code_lr_scale: float = 10.0  # learning rate of the codes, times that of the rest: they have to keep up with latents
    commitment: float = 0.25  # weight of what draws latents to their codes
    # GPT-2 and PixelCNN
    width: int = 160
    layers: int = 4
    heads: int = 5  # of GPT-2's attention
    kernel_size: int = 5  # of PixelCNN, odd
    dropout: float = 0.1  # of GPT-2
    label_dropout: float = 0.1  # share of samples that see "no label", for classifier-free guidance
    guidance_scale: float = 2.0  # the default that the export carries

    def __post_init__(self):
        super().__post_init__()
        if self.kernel_size % 2 == 0 or self.shift_px < 0 or not 2 <= self.vocabulary <= 256:
            raise ValueError("--kernel_size must be odd, --shift_px at least 0, --vocabulary lie in [2, 256]")
        if self.width % self.heads:
            raise ValueError(f"--width {self.width} must be a multiple of --heads {self.heads}")
        if self.resolution % (step := 2 ** (len(self.block_out_channels) - 1)) and self.model == "vq":
            raise ValueError(f"--resolution {self.resolution} must be a multiple of {step}, for a patch is a code")


VQ = TokensConfig(
    output_dir="runs/tokens-vq", model="vq", resolution=32, vocabulary=256, train_batch_size=32, learning_rate=1e-3,
    lr_warmup_steps=100, ema_decay=0.998, max_train_steps=6000, checkpointing_steps=250, validation_steps=1000,
)  # fmt: skip
GPT = dataclasses.replace(
    VQ, output_dir="runs/tokens-gpt", model="gpt2", tokenizer_name_or_path="runs/tokens-vq/export",
    train_batch_size=64, ema_decay=0.999, max_train_steps=7000,
)  # fmt: skip
PIXELS = dataclasses.replace(
    GPT, output_dir="runs/tokens-pixels", tokenizer_name_or_path=None, resolution=16, vocabulary=64, shift_px=1,
    train_batch_size=16, max_train_steps=2400,
)  # fmt: skip
PRESETS = {
    "vq": VQ,
    "gpt": GPT,
    "pixels": PIXELS,
    "pixelcnn": dataclasses.replace(
        PIXELS, output_dir="runs/tokens-pixelcnn", model="pixelcnn", width=64, layers=8, heads=1, dropout=0.0,
        train_batch_size=32, max_train_steps=3500,
    ),
    "tiny": dataclasses.replace(
        PIXELS, dataset_name="emoji-sample", resolution=8, vocabulary=16, width=16, layers=2, heads=2,
        block_out_channels=(8, 16), norm_num_groups=4, kernel_size=3, max_train_steps=2, train_batch_size=8,
        lr_warmup_steps=1, checkpointing_steps=1, validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


class Pictures:
    """Training samples {"picture": (3, R, R), "label": ()} of a source; see `training.order.Samples`."""

    def __init__(self, source: Source, cfg: TokensConfig):
        self.source, self.data_hash, self.cfg = source, source.data_hash, cfg
        source.preload(cfg.resolution)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        side, shift = self.cfg.resolution, self.cfg.shift_px
        wide = torch.nn.functional.pad(clean_picture(self.source.picture(index), side), (shift,) * 4, value=1.0)
        top, left = torch.randint(2 * shift + 1, (2,), generator=draw).tolist()
        dropped = torch.rand((), generator=draw) < self.cfg.label_dropout
        label = len(self.source.label_names) if dropped else int(self.source.labels[index])
        return {"picture": wide[:, top : top + side, left : left + side], "label": label}


def palette_of(source: Source, cfg: TokensConfig) -> contract.Palette:
    """The K colours that come nearest to the pixels of a source: PIL's median cut, and k-means from there."""
    source.preload(cfg.resolution)
    spread = range(0, len(source), max(1, len(source) // 1024))
    shown = torch.stack([clean_picture(source.picture(index), cfg.resolution) for index in spread])  # (N, 3, R, R)
    image = Image.fromarray(to_uint8(shown).reshape(-1, cfg.resolution, 3))
    found = image.quantize(cfg.vocabulary, Image.Quantize.MEDIANCUT, kmeans=1).getpalette("RGB") or []
    return contract.Palette(np.reshape(found, (-1, 3))[: cfg.vocabulary].tolist(), cfg.resolution)


def create_model(cfg: TokensConfig, alphabet: contract.Palette | contract.Codes, num_labels: int):
    """A stock GPT2LMHeadModel, or a PixelCNN, over an alphabet and the labels."""
    height, width = alphabet.grid
    if cfg.model == "pixelcnn":
        return contract.PixelCNN(alphabet.size, num_labels, height, width, cfg.width, cfg.layers, cfg.kernel_size)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=alphabet.size + num_labels + 1, n_positions=height * width + 1, n_embd=cfg.width,
            n_layer=cfg.layers, n_head=cfg.heads, resid_pdrop=cfg.dropout, embd_pdrop=cfg.dropout,
            attn_pdrop=cfg.dropout, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
        )
    )  # fmt: skip


def start_from(cfg: TokensConfig, train: Source) -> contract.Tokens:
    """What is trained and the symbols it is of: fresh, or those of a checkpoint with the same labels."""
    if cfg.pretrained_model_name_or_path:
        served = contract.load(cfg.base, device="cpu")
        require_resolution(cfg, served.resolution_px, "draws")
        if served.label_names != train.label_names:
            raise SystemExit(f"{cfg.base} draws {some(served.label_names)}: give it pictures of these, or start afresh")
        served.model.requires_grad_(True).train()
        return served
    if cfg.tokenizer_name_or_path:
        alphabet: contract.Palette | contract.Codes = contract.load_codes(cfg.tokenizer_name_or_path, device="cpu")
        if alphabet.resolution_px != cfg.resolution:
            raise SystemExit(
                f"{cfg.tokenizer_name_or_path} reads {alphabet.resolution_px} px: set --resolution to that"
            )
    else:
        alphabet = palette_of(train, cfg)
    model = create_model(cfg, alphabet, len(train.label_names))
    return contract.Tokens(model, alphabet, label_names=train.label_names, guidance_scale=cfg.guidance_scale)


def task_of(cfg: TokensConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, label_column="label")
    torch.manual_seed(cfg.seed)
    if cfg.model == "vq":
        return vq_task(cfg, train, held_out)
    start = start_from(cfg, train)
    alphabet = start.alphabet

    def loss(model, batch):
        with torch.autocast(batch["picture"].device.type, enabled=False):  # the symbols that are drawn later on
            symbols = alphabet.encode(batch["picture"]).to(batch["label"])  # (B, N)
        logits = contract.logits_of(model, contract.sequence(symbols, batch["label"], alphabet.size), alphabet.size)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), symbols.flatten()), {}

    def sheet(served):
        return figures.sheet(
            draw(served, [row for row in range(len(train.label_names)) for _ in range(4)], 0), 8, zoom=2
        )

    return Task(
        stem=STEM, source=train, players=[Player(start.model, loss)], samples=Pictures(train, cfg),
        served=functools.partial(with_model, start),
        evaluate=lambda served: {"bits_per_dimension": mean_bits(served, held_out, limit=256)}, draw=sheet,
        save=contract.save_folder, card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def vq_task(cfg: TokensConfig, train: Source, held_out: Source) -> Task:
    """That of a VQ-VAE, fresh or of a checkpoint."""
    start = contract.load_codes(cfg.base, device="cpu").vq if cfg.pretrained_model_name_or_path else vq.create_vq(cfg)
    module = vq.Quantised(start.requires_grad_(True).train())
    groups = slower(module, start.quantize, cfg, lr_scale=cfg.code_lr_scale, weight_decay=0.0)
    shown = to_uint8(picture_tensor(held_out, cfg.resolution, limit=256))

    def loss(model, batch):
        return vq.vq_loss(model, batch["picture"], start.quantize.embedding.weight, cfg.commitment)

    def sheet(served):
        back = to_uint8(served.decode(served.encode(from_uint8(shown[:16]))))
        return figures.sheet(np.concatenate([shown[:16], back]), columns=len(back), zoom=2)

    return Task(
        stem=STEM, source=train, players=[Player(module, loss, groups)], samples=Pictures(train, cfg),
        served=lambda model: contract.Codes(model.vq, cfg.resolution),
        evaluate=lambda served: vq.measured(served, shown), draw=sheet, save=contract.save_codes,
        card=lambda served: vq.card_of(served, train),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(served: contract.Tokens, cfg: TokensConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, (height, width), size = cfg.resolution, served.alphabet.grid, served.alphabet.size
    coded, gpt = isinstance(served.alphabet, contract.Codes), isinstance(served.model, GPT2LMHeadModel)
    what = f"{height} × {width} codes of a VQ-VAE" if coded else f"{height} × {width} pixels in {size} colours"
    kind = "GPT-2" if gpt else "PixelCNN"
    usage = ['from hub_models import tokens\n\nmodel = tokens.load("org/name")  # no stock class has this architecture']
    if gpt:
        usage = [USAGE.format(first=size, last=size + len(train.label_names), name=train.label_names[0],
                              count=height * width, h=height, w=width)]  # fmt: skip
    if coded:
        usage.append('from diffusers import VQModel\n\nvq = VQModel.from_pretrained("org/name", subfolder="vq")')
    return Card(
        name="-".join([train.facts.ours or STEM, str(side), *([] if coded else ["pixels"]), *([] if gpt else ["cnn"])]),
        title=f"{kind} over {what}, {side} px, {len(train.label_names)} classes",
        summary=f"A {kind} that draws {side} × {side} pictures of a class as a sequence of {what}. "
        f"Training data: {train.facts.title}.",
        library_name="transformers" if gpt else "pytorch",
        pipeline_tag="unconditional-image-generation",
        tags=["pytorch", "autoregressive", "vq-vae" if coded else "palette"],
        parameters=served.parameters,
        usage="\n".join(usage),
        limits=[f"It draws {side} × {side} pixels, many of them only roughly like the class asked for."],
    )
