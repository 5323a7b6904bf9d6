"""A learner as one graph from pixels to logits, as `torch.export` records it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from promptkit.learner import Learner
from promptkit.tensors import Batch


class Answering(nn.Module):
    """Pixels, prepared as the backbone wants them, to logits.

    The learner is held outside the module tree: of its tensors and the backbone's, those that are used become constants of
    the graph, and the others, such as a text tower whose answers are constant, stay out.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.held = (learner,)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        return self.held[0].predict(Batch.of(pixels))


@torch.no_grad()
def trace(learner: Learner) -> ExportedProgram:
    """The graph of `Learner.predict`, for any number of images.

    Text that depends on no image is a constant in it. Raises what torch does for a graph that can't be recorded.
    """
    pixels = torch.zeros(2, 3, *learner.scene.backbone.image.size, device=learner.scene.backbone.device)
    answering = Answering(learner)
    answering(pixels)  # what is computed once is computed now
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation has no counterpart elsewhere
    try:
        return torch.export.export(answering, (pixels,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
