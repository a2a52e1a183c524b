"""Write a prompt and watch a latent diffusion model draw it; every PNG carries what draws it again.

    python -m apps.text_to_image [--model emoji --model FOLDER --model org/repo] [--port 7860]

Any folder or Hub repo of a Stable-Diffusion-type pipeline can be served.
"""

from apps.text_to_image.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
