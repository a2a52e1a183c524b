"""What a ViT and a Swin take a picture for, side by side, and both under the microscope: the page `classifier`.

python -m apps.classifier [--model vit --model swin] [--port 7860]
"""

from apps.classifier.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
