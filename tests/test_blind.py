"""benchmarks/blind: a sheet of numbers, and a key apart from it."""

import tiny_models
from PIL import Image

from benchmarks import blind
from training import text_to_image
from training.data.sources import open_source


def test_the_blind_sheet_says_nothing_and_its_key_all(tmp_path, capsys):
    folder = tiny_models.stable_diffusion(tmp_path / "tiny", text="bert")
    flags = ["--model", str(folder), "--dataset", "emoji-sample", "--output_dir", str(tmp_path / "out"), "--seed", "3"]
    blind.main(flags)
    assert not (tmp_path / "out").exists() and "style" not in capsys.readouterr().out, "told, and no caption in it"
    blind.main([*flags, "--write"])
    key = (tmp_path / "out" / "tiny-3.txt").read_text().splitlines()
    assert [line.split(" ")[0] for line in key] == [str(number) for number in range(1, len(key) + 1)]
    selection = text_to_image.selection.select(open_source("emoji-sample", split="train"), groups=blind.FIRST_GROUPS)
    prompts = [line.partition(" ")[2] for line in key]
    assert sorted(prompts) == sorted(blind.asked(selection)) and set(prompts) <= set(selection.prompts)
    assert prompts != blind.asked(selection), "the seed decides which caption has which number"
    with Image.open(tmp_path / "out" / "tiny-3.png") as sheet:
        assert not sheet.info and sheet.width > sheet.height
