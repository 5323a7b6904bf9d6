"""Cross-entropy, prompt consistency between views, and contrast between pictures."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptkit.components import Loss
from promptkit.distributed import gather
from promptkit.tensors import Outputs
from promptkit_gopro.views import VIEWS


class GOProLoss(Loss):
    """Cross-entropy, consistency of the text features over views, and NT-Xent on projected images.

    Terms, as `GOProLoss` of `trainers/gopro.py` (which has the default weights):

        ce           cross-entropy of the "image" view's logits
        consistency  mse(t_image, t_moco) + mse(t_image, t_augmix), t the projected text features (#B C K D)
        contrast     nt_xent of the projected images (B E) of "image" and "moco"
    """

    views = VIEWS

    @dataclass(frozen=True)
    class Options:
        consistency: Annotated[float, "weight of the consistency of text features over views", Ge(0)] = 1.0
        contrast: Annotated[float, "weight of the contrastive term", Ge(0)] = 0.1
        temperature: Annotated[float, "temperature of the contrastive term", Gt(0)] = 0.1

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        image, moco, augmix = (outputs.views[name] for name in VIEWS)
        consistency = sum(F.mse_loss(image.text_projected, view.text_projected) for view in (moco, augmix))
        contrast = nt_xent(image.image_projected, moco.image_projected, self.options.temperature)
        return {
            "ce": F.cross_entropy(outputs.logits, outputs.label),
            "consistency": self.options.consistency * consistency,
            "contrast": self.options.contrast * contrast,
        }


def nt_xent(a: Float[Tensor, "B E"], b: Float[Tensor, "B E"], temperature: float) -> Float[Tensor, ""]:
    """The contrastive loss of SimCLR on two views of B pictures.

    Each of the 2B vectors, brought to unit norm, has to find its picture's other view among all the others: those of
    the other view and the other pictures of its own. The mean over the 2B rows is the mean of both directions.
    As `SIMCLRLoss` of `trainers/gopro.py`; like it, it takes the pictures of all processes together.
    One picture has nothing to be told apart from: the loss is 0.
    """
    a, b = gather(a), gather(b)
    z = F.normalize(torch.cat([a, b]), dim=-1)
    similarity = torch.einsum("ie,je->ij", z, z) / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    other_view = torch.arange(len(z), device=z.device).roll(len(a))
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), other_view)
