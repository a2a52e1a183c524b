"""What is where in a picture and how sure a Swin, a ViT and a U-Net are of every pixel: the page `segmentation`.

    python -m apps.segmentation [--model swin-scenes --model org/segformer] [--port 7860]

Any checkpoint of `AutoModelForSemanticSegmentation` or of segmentation_models_pytorch can be served.
"""

from apps.segmentation.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
