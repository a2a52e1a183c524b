"""Draw pictures out of noise with the diffusion model, and watch: the page `ddpm`.

    python -m apps.ddpm [--model emoji-32 --model FOLDER --model org/repo] [--port 7860]

desk computes, paint has the pixels, words the HTML, page the layout and the events.
"""

from apps.ddpm.desk import load_models
from apps.ddpm.page import PAGE, build, main

__all__ = ["PAGE", "build", "load_models", "main"]
