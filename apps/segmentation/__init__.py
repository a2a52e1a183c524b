"""What is where in a picture and how sure a Swin, a ViT and a U-Net are of every pixel: the page `segmentation`.

    python -m apps.segmentation [--model swin-scenes --model org/segformer] [--port 7860]

Any checkpoint of `AutoModelForSemanticSegmentation` or of segmentation_models_pytorch can be served.
desk computes, paint has a picture's classes and their pixels, words the HTML, page the layout and the events.
"""

from apps.segmentation.desk import load_models
from apps.segmentation.page import PAGE, build, main

__all__ = ["PAGE", "build", "load_models", "main"]
