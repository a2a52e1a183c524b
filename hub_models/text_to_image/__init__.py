"""Pictures out of a prompt: a latent diffusion model that reads text, and the receipts of what it drew.

A model folder is that of a stock `StableDiffusionPipeline`, plus one file for what has no place in a stock config:

    model_index.json  unet/  vae/  text_encoder/  tokenizer/  scheduler/
    preprocessor_config.json {"guidance_scale", "max_guidance", "default_steps", "default_sampler", "resolution_px",
                              "ground", "styles", "latent_to_rgb", "latent_to_rgb_bias"}; any of these, or the whole
                              file, may be absent

One whose scheduler is an LCMScheduler draws in few steps, by that sampler alone (Luo et al. 2023); one whose U-Net
has a time_cond_proj_dim reads the guidance by itself.

model.py draws, sampling.py takes its steps, inside.py looks into them; receipts.py writes and verifies what was drawn;
settings.py is what may be asked, and the texts of other programs; folder.py opens and writes model folders; single.py
makes a folder of a single file, lora.py merges a LoRA.
"""

from hub_models.drawing import (
    MAX_SEED,
    RECEIPT_KEY,
    ReceiptError,
    Step,
    Verdict,
    altered_fields,
    normalise_prompt,
    pixels_sha256,
)
from hub_models.store import CheckpointError
from hub_models.text_to_image.folder import load, resolve, save_folder
from hub_models.text_to_image.inside import Word
from hub_models.text_to_image.model import EXTRA, TextToImage
from hub_models.text_to_image.settings import (
    FEW_STEPS,
    MAX_PICTURES,
    MAX_PROMPT_CHARACTERS,
    PARAMETERS_KEY,
    SAMPLERS,
    THEIR_NAMES,
    Fork,
    parameters_text,
    read_parameters,
    read_receipt,
    steps_run,
)
