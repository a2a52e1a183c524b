"""Which things are in a picture, where and how many, and whether they are what was asked for: the page `detection`.

    python -m apps.detection [--model emoji --model org/detector] [--port 7860]

Any checkpoint of `AutoModelForObjectDetection` can be served.
"""

from apps.detection.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
