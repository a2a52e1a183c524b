"""Code that comes with a model or a data set is never run, and nobody is asked, whatever stands on standard input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_models import store
from tests import tiny_models
from tests.loopback_hub import loopback_hub

OPEN = """
import importlib, json, sys
for stem, name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(f"hub_models.{stem}").load(name, device="cpu")
        said = "loaded"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print("@@", json.dumps([name, said]))
"""
EVIL = """
open({marker!r}, "a").write(__name__ + "\\n")
class Evil:
    model_type = "evil"
    @classmethod
    def from_pretrained(cls, *_, **__): return cls()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    tiny_models.ddpm_folder(root / "ddpm")
    tiny_models.classifier(root / "classifier")
    tiny_models.dual_encoder(root / "clip")
    tiny_models.captioner(root / "captioning")
    tiny_models.segmenter(root / "segmentation", "segformer")
    tiny_models.stable_diffusion(root / "text_to_image")
    tiny_models.autoencoder_folder(root / "autoencoder")
    return {path.name: path for path in root.iterdir()}


CONFIG = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForSemanticSegmentation": "evil.Evil"}
PROCESSOR = {"auto_map": {"AutoImageProcessor": "evil.Evil"}, "image_processor_type": "Evil"}
TOKENIZER = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
INNER = {"model_type": "vit", "auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoModel": "evil.Evil"}}
# (stem, file, what is put into it, where a copy of the code lies besides the folder itself)
CASES = {
    "clip config": ("clip", "config.json", {"model_type": "evil", "auto_map": CONFIG}, "."),
    "clip tokenizer": ("clip", "tokenizer_config.json", TOKENIZER, "."),
    "clip processor": ("clip", "preprocessor_config.json", PROCESSOR, "."),
    "clip tower": ("clip", "config.json", {"text_config": INNER}, "."),
    "captioning config": ("captioning", "config.json", {"model_type": "evil", "auto_map": CONFIG}, "."),
    "captioning tokenizer": ("captioning", "tokenizer_config.json", TOKENIZER, "."),
    "captioning processor": ("captioning", "preprocessor_config.json", PROCESSOR, "."),
    "captioning decoder": ("captioning", "config.json", {"decoder": INNER}, "."),
    "captioning elsewhere": (
        "captioning",
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["org/evil--evil.Evil", None]}, "tokenizer_class": "Evil"},
        ".",
    ),
    "segmentation config": ("segmentation", "config.json", {"model_type": "evil", "auto_map": CONFIG}, "."),
    "segmentation model": ("segmentation", "config.json", {"model_type": "vit", "auto_map": CONFIG}, "."),
    "segmentation processor": ("segmentation", "preprocessor_config.json", PROCESSOR, "."),
    "segmentation kernel": ("segmentation", "config.json", {"attn_implementation": "org/evil"}, "."),
    "classifier": ("classifier", "config.json", {"architecture": "local-dir:evil", "auto_map": CONFIG}, "."),
    "ddpm pipeline": ("ddpm", "model_index.json", {"_class_name": ["evil", "Evil"]}, "."),
    "ddpm scheduler": ("ddpm", "model_index.json", {"scheduler": ["evil", "Evil"]}, "scheduler"),
    "text_to_image pipeline": ("text_to_image", "model_index.json", {"_class_name": ["evil", "Evil"]}, "."),
    "text_to_image scheduler": ("text_to_image", "model_index.json", {"scheduler": ["evil", "Evil"]}, "scheduler"),
    "text_to_image tokenizer": ("text_to_image", "model_index.json", {"tokenizer": ["evil", "Evil"]}, "tokenizer"),
    "text_to_image unet": ("text_to_image", "model_index.json", {"unet": ["evil", "Evil"]}, "unet"),
    "text_to_image module": ("text_to_image", "model_index.json", {"scheduler": ["evil_package", "Evil"]}, "vae"),
    "text_to_image words": ("text_to_image", "tokenizer/tokenizer_config.json", TOKENIZER, "tokenizer"),
    "text_to_image tower": (
        "text_to_image",
        "text_encoder/config.json",
        {"auto_map": CONFIG, "model_type": "evil"},
        "text_encoder",
    ),
    "autoencoder": ("autoencoder", "config.json", {"_class_name": "Evil", "auto_map": CONFIG}, "."),
}


@pytest.fixture(scope="module")
def evil(folders, tmp_path_factory) -> dict[str, tuple[str, Path]]:
    """{case: (stem, folder)}, all of whose code writes the marker beside them."""
    root = tmp_path_factory.mktemp("evil")
    code = EVIL.format(marker=str(root / "marker"))
    (root / "evil_package.py").write_text(code)
    made = {}
    for case, (stem, file, content, place) in CASES.items():
        folder = Path(shutil.copytree(folders[stem], root / case.replace(" ", "-")))
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | content))
        for where in (".", place):
            (folder / where / "evil.py").write_text(code)
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(code)
        made[case] = stem, folder
    return made


def check(output: str, names: list[str], marker: Path, complaint: str) -> None:
    rows = [json.loads(line.partition("@@ ")[2]) for line in output.splitlines() if "@@ " in line]
    assert [row[0] for row in rows] == names, complaint
    for name, said in rows:
        assert said.startswith("CheckpointError: ") and "\n" not in said, (name, said)
        assert "[y/N]" not in said and "trust_remote_code=True" not in said, (name, said)
    assert "[y/N]" not in output + complaint
    assert not marker.exists(), marker.read_text()


@pytest.mark.timeout(400)  # most of it imports, on a busy machine
def test_no_folder_runs_its_code_after_a_y(evil):
    asked = [[stem, str(folder)] for stem, folder in evil.values()]
    root = next(iter(evil.values()))[1].parent
    done = subprocess.run(
        [sys.executable, "-c", OPEN, json.dumps(asked)],
        input="y\n" * 1000,
        text=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f".:{root}", "HF_MODULES_CACHE": str(root / "modules"), "HF_HUB_OFFLINE": "1"},
    )
    check(done.stdout, [name for _, name in asked], root / "marker", done.stderr[-3000:])


@pytest.mark.timeout(400)
def test_no_repository_of_the_hub_runs_its_code_after_a_y(evil, tmp_path):
    root = next(iter(evil.values()))[1].parent
    with loopback_hub() as hub:
        asked = []
        for case, (stem, folder) in evil.items():
            name = f"org/{case.replace(' ', '-')}"
            hub.create(name)
            hub.commit(
                name, {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
            )
            asked.append([stem, name])
        done = subprocess.run(
            [sys.executable, "-c", OPEN, json.dumps(asked)],
            input="y\n" * 1000,
            text=True,
            capture_output=True,
            timeout=300,
            env=hub.environment(tmp_path) | {"PYTHONPATH": f".:{root}"},
        )
        check(done.stdout, [name for _, name in asked], root / "marker", done.stderr[-3000:])
        assert not any(request.endswith(".py") for request in hub.asked), "code was fetched"


DATA = """
import sys
from training.data.sources import DataError, open_source
try:
    open_source(sys.argv[1], split="train")
    print("opened")
except DataError as error:
    print("DataError", error)
"""


def test_no_script_of_a_data_set_runs_after_a_y(tmp_path):
    data = tmp_path / "pictures"
    (data / "train").mkdir(parents=True)
    (data / "pictures.py").write_text(EVIL.format(marker=str(tmp_path / "marker")))
    done = subprocess.run(
        [sys.executable, "-c", DATA, str(data)],
        input="y\n" * 99,
        text=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert done.stdout.startswith("DataError"), done.stdout + done.stderr
    assert not (tmp_path / "marker").exists() and "[y/N]" not in done.stdout + done.stderr


def test_an_adapter_names_no_other_model(folders, tmp_path):
    folder = Path(shutil.copytree(folders["segmentation"], tmp_path / "model"))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/evil", "peft_type": "LORA"}')
    with pytest.raises(store.CheckpointError, match="adapter for another model"):
        store.verify(folder)


def test_what_a_refusal_says(evil):
    with pytest.raises(
        store.CheckpointError, match="wants to run its own code .*never done here; use a checkpoint of a stock"
    ):
        store.verify(evil["captioning tokenizer"][1])
