"""Draw pictures out of noise with the diffusion model, and watch: the page `ddpm`.

python -m apps.ddpm [--model emoji-32 --model FOLDER --model org/repo] [--port 7860]
"""

from apps.ddpm.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
