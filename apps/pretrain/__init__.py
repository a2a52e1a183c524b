"""What towers that learned without labels make of pictures, each beside the others: the page `pretrain`.

python -m apps.pretrain [--model lejepa --model runs/mae/export] [--port 7860]
"""

from apps.pretrain.page import PAGE, build, load_models, main

__all__ = ["PAGE", "build", "load_models", "main"]
