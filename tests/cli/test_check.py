"""`promptkit check`"""

from collections.abc import Callable

import torch

from promptkit import hookimpl
from promptkit.components import Loss
from promptkit.tensors import Outputs
from promptkit.testing import registered

Command = Callable[..., "Finished"]


class Unfinished(Loss):
    """A loss that is no scalar."""

    def forward(self, outputs: Outputs) -> dict[str, torch.Tensor]:
        return {"ce": outputs.logits}


class Plugin:
    @hookimpl
    def register_losses(self, register: Callable[..., None]) -> None:
        register("unfinished", Unfinished)


def test_a_sound_recipe_is_ok_in_every_row(promptkit: Command) -> None:
    done = promptkit("check", "coop")
    assert done.status == 0
    assert all(f"{kind} coop" in done.out for kind in ("recipe", "prompts"))
    assert [line.split()[-1] for line in done.out.splitlines() if "gradients" in line] == ["ok"] * 2
    assert "fails" not in done.out


def test_a_failure_says_what_to_do_and_sets_the_exit_status(promptkit: Command) -> None:
    with registered(Plugin()):
        done = promptkit("check", "unfinished")
    assert done.status == 1
    assert "fails: the loss term 'ce' has shape (4, 4): reduce it to a scalar" in done.out


def test_an_unknown_name_is_answered_with_the_nearest(promptkit: Command) -> None:
    done = promptkit("check", "gopr")
    assert done.status == 2
    assert "did you mean 'gopro'?" in done.err
