"""What GOPro puts on top of CLIP's two towers."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import TrainingError
from promptkit.components import Projector, Scene
from promptkit.distributed import gather, own


class GOProProjector(Projector):
    """The paper's pair of linear projectors, for images and for texts, into a space that all three losses share.

    Both start as the identity, so that training starts from CLIP's zero-shot geometry. Outputs have unit norm.
    """

    def __init__(self, options: object, scene: Scene) -> None:
        super().__init__(options, scene)
        width = scene.backbone.joint_width
        self.image_map = nn.Linear(width, width, bias=False)
        self.text_map = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.image_map.weight)
        nn.init.eye_(self.text_map.weight)

    def image(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return F.normalize(self.image_map(features), dim=-1)

    def text(self, features: Float[Tensor, "#B C K D"]) -> Float[Tensor, "#B C K D"]:
        return F.normalize(self.text_map(features), dim=-1)


class ReferenceProjector(Projector):
    """The released code's projector: a linear map and batch normalisation, on images, for the contrastive loss alone.

    As `sim_projector` of `trainers/gopro.py`. Logits are CLIP's own. In training each view is normalised with the
    statistics of its own batch, over all processes; the running statistics are saved with the learner and used by no result.
    """

    for_logits = False

    def __init__(self, options: object, scene: Scene) -> None:
        super().__init__(options, scene)
        width = scene.backbone.joint_width
        self.image_map = nn.Linear(width, width)
        self.image_norm = nn.BatchNorm1d(width)

    def image(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Raises TrainingError for a training batch of one picture, which has no deviation to divide by."""
        if not self.training:
            seen: Tensor = self.image_norm(self.image_map(features))
            return seen
        everyone = gather(features)
        if len(everyone) == 1:
            raise TrainingError(
                "the projector 'gopro-reference' normalises over the batch and got a training batch of one picture",
                "choose a train.batch_size that leaves no single picture over, or --set projector=gopro",
            )
        return own(self.image_norm(self.image_map(everyone)))
