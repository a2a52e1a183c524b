"""What the diffusion models share."""

import torch


def predict_x0(output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """The clean picture or latent that a model output implies; all of (B, C, H, W), alpha_bar broadcast to it.

    ε: Ho et al. 2020, eq. 15. v = sqrt(ᾱ) ε - sqrt(1-ᾱ) x0: Salimans & Ho 2022, appendix D.
    Raises ValueError for another prediction type.
    """
    if prediction_type == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
    if prediction_type == "sample":
        return output
    raise ValueError(f"prediction_type {prediction_type!r} is not one of epsilon, v_prediction, sample")
