"""Captions of a picture, where the model looked for each word, and which of your own lines fits: the page `captioning`.

    python -m apps.captioning [--model emoji --model org/blip --model clip=FOLDER] [--port 7860]

Any `VisionEncoderDecoderModel` or `BlipForConditionalGeneration` can be served, and, after "clip=", any dual encoder to
rank lines with; without one it is CLIP's "emoji".
"""

from apps.captioning.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
