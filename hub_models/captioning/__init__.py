"""What a picture shows, in words: captions with their probabilities, and for each word where the model looked.

A model folder is stock: a `VisionEncoderDecoderModel` (ours: the image tower of a dual encoder and a small BERT that
attends to its patches; ViT-GPT2 and its kind), or a `BlipForConditionalGeneration`; each with its tokenizer and image
processor. An own key in preprocessor_config.json, optional: framed (the picture stands whole in a white square; without
it the image processor has its way, and most squeeze a picture into a square).

Letters: B pictures or captions, R side of what the model sees in pixels, S states of the encoder, h × w patches among
them, C width of the decoder, L tokens of a caption, V pieces of the vocabulary.

model.py says captions; evidence.py is what they rest on; parts.py is what the kinds of models have in common; folder.py
opens and writes their folders.
"""

from hub_models.captioning.evidence import Evidence
from hub_models.captioning.folder import load, save_folder
from hub_models.captioning.model import BATCH, MAX_TEXT, NEW_TOKENS, Caption, Captioner
from hub_models.captioning.parts import (
    MAX_SEQUENCES,
    attended,
    covered,
    decode,
    decoder_of,
    encode,
    encoder_of,
    grid_of,
    padded,
    pointed_at,
    show_attention,
    token_log_probs,
)
from hub_models.store import CheckpointError
