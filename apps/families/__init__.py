"""Several ways to make a picture, side by side on the same label and the same seeds: the page `families`.

python -m apps.families [--model gan=dcgan-32 --model tokens=FOLDER --model ddpm=org/repo] [--port 7860]
"""

from apps.families.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
