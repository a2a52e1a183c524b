"""The contract of every family: stock code opens its folders, tiny and shipped, and answers as ours does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES, KINDS, Family, run_of
from safetensors.torch import load_file

from hub_models import store
from hub_models.publish import lint, packing
from training import publish

ATOL = 1e-5  # the weights of a file may lie otherwise in memory, and sums then come out another way
SHIPPED = {f"{stem}/{name}": folder for stem in FAMILIES for name, folder in store.bundled(stem).items()}


@pytest.fixture(scope="module", params=[*FAMILIES, *KINDS])
def export(request, tmp_path_factory) -> tuple[Family, Path]:
    """(family, folder) of a tiny random model, exported as a training does it."""
    stem = request.param.partition(", ")[0]
    family, folder = (FAMILIES | KINDS)[request.param], tmp_path_factory.mktemp(stem) / "export"
    publish.write_export(folder, family.save, run_of(stem))
    return family, folder


def test_the_stock_class_opens_it_in_fp32_with_no_arguments_and_answers_the_same(export):
    family, folder = export
    ours = family.load(folder)
    family.assert_alike(ours, family.opened(folder), ATOL)
    on_disk = [t for file in folder.rglob("*.safetensors") for t in load_file(file).values()]
    assert {t.dtype for t in on_disk if t.is_floating_point()} == {torch.float16}
    assert ours.weights_sha256 == store.weights_sha256(folder)


def test_saved_again_it_answers_the_same(export, tmp_path):
    family, folder = export
    family.again(family.load(folder), tmp_path / "again")
    family.assert_alike(family.load(tmp_path / "again"), family.opened(folder), ATOL)


def test_it_is_whole_and_described(export):
    _, folder = export
    store.verify(folder, manifest_required=True)
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert here == set(packing.files_to_push(folder)) and lint.lint((folder / "README.md").read_text()) == []


@pytest.mark.parametrize("manifest", [True, False])
def test_without_its_weights_it_is_refused_in_a_sentence(export, tmp_path, manifest):
    family, folder = export
    shutil.copytree(folder, tmp_path / "bare")
    for file in [
        *(tmp_path / "bare").rglob("*.safetensors"),
        *([] if manifest else [tmp_path / "bare" / store.MANIFEST]),
    ]:
        file.unlink()
    with pytest.raises(store.CheckpointError) as refused:
        family.load(tmp_path / "bare")
    assert str(tmp_path / "bare") in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_opened_by_the_stock_class_too(name):
    family, folder = FAMILIES[name.split("/")[0]], SHIPPED[name]
    library = json.loads((folder / "run.json").read_text())["library_name"]
    family.assert_alike(family.load(folder), family.opened(folder, library), ATOL)
