"""Pictures one symbol after the other: a stock GPT-2 or a PixelCNN over the codes of a VQ-VAE or over a palette.

A model folder is what a stock `GPT2LMHeadModel` is opened with, and of codes a stock `VQModel` of diffusers beside it:

    config.json  model.safetensors  preprocessor_config.json {"label_names", "resolution_px", "guidance_scale",
    vq/  (where there is no palette)                          "ground", "palette"}

A PixelCNN (`pixelcnn.PixelCNN`) has no stock class: its files are those of `huggingface_hub.PyTorchModelHubMixin`.
The sequence: token K + label, or K + L for "no label", and then the N symbols 0 … K-1 in raster order.

symbols.py makes symbols of pictures and back; model.py draws, completes and measures; folder.py opens and writes.
Letters, in all of them: B pictures, R pixels a side, (h, w) the grid of N = h·w symbols out of K, L labels.
"""

from hub_models.tokens.folder import load, load_codes, save_codes, save_folder
from hub_models.tokens.model import Draft, Tokens, logits_of, sequence
from hub_models.tokens.pixelcnn import PixelCNN
from hub_models.tokens.symbols import Codes, Palette
