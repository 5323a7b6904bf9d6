"""The kit for plugin authors: tiny data, a tiny backbone, a plugin registered without being installed, and checks.

    from promptkit.testing import check_recipe, registered

    def test_my_learner_keeps_the_contract():
        with registered(my_learner):
            assert check_recipe("my-learner") == []

`check_recipe` and the check of each kind of component return one sentence for each defect, which says what to do.
`promptkit check NAME` prints the same as a table.
"""

from promptkit.backbones.tiny import tiny_backbone
from promptkit.testing.conformance import (
    check_backbone,
    check_learner,
    check_loss,
    check_projector,
    check_prompts,
    check_recipe,
    check_views,
)
from promptkit.testing.data import SHAPES, STYLES, write_images
from promptkit.testing.plugins import registered
from promptkit.testing.specimen import build_recipe

__all__ = [
    "SHAPES",
    "STYLES",
    "build_recipe",
    "check_backbone",
    "check_learner",
    "check_loss",
    "check_projector",
    "check_prompts",
    "check_recipe",
    "check_views",
    "registered",
    "tiny_backbone",
    "write_images",
]
