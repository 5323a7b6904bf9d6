"""Checks of a learner as a whole. Each returns, or raises Defect with one sentence that says what to do."""

from dataclasses import replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from promptkit import contract
from promptkit.backbones.tiny import tiny_backbone
from promptkit.contract import Defect
from promptkit.learner import Learner
from promptkit.tensors import Batch, NoPixels
from promptkit.testing.specimen import CLASSES, OTHER_CLASSES, Specimen, close, stir


def check_shapes(specimen: Specimen) -> None:
    """Everything that components hand on has its shape; features of the towers have unit norm."""
    learner, batch = specimen.learner(), specimen.batch
    learner.train()
    contract.check_shapes(learner, batch.views["image"])
    text = learner.prompts.encode(learner.encode_image(batch.views["image"]), learner.prompts.class_tokens(CLASSES))
    if not torch.isfinite(text).all():
        raise Defect(
            "text features of prompts.encode() are not finite on sound pictures: guard roots and divisions at 0"
        )
    if not close(text.float().norm(dim=-1), torch.ones(text.shape[:-1])):
        raise Defect("text features of prompts.encode() have no unit norm: divide them by their norm")
    logits = learner(batch).logits
    if tuple(logits.shape) != (len(batch.label), len(CLASSES)):
        raise Defect(f"the logits are {tuple(logits.shape)}: make them (B C), here {len(batch.label), len(CLASSES)}")
    if not torch.isfinite(logits).all():
        raise Defect(
            "the logits are not finite, though the text features are: guard what projector and learner compute"
        )


def check_terms(specimen: Specimen) -> None:
    """The loss gives named finite scalars, and reads no view that it doesn't declare."""
    learner = specimen.learner()
    learner.train()
    outputs = learner(specimen.batch)
    declared = {name: outputs.views[name] for name in learner.loss.views}
    try:
        terms = learner.loss(replace(outputs, views=declared))
    except KeyError as error:
        if error.args[0] in outputs.views:
            raise Defect(
                f"the loss reads the view {error} without declaring it: add it to `views` of the class"
            ) from None
        handed = ", ".join(outputs.extra) or "nothing"
        raise Defect(
            f"the loss asks for {error}, which is no view; `outputs.extra` holds {handed}: if a component has to hand it "
            "over in extra(), say which in `needs`"
        ) from None
    contract.check_terms(terms)
    for name, term in terms.items():
        if not torch.isfinite(term):
            raise Defect(
                f"the loss term {name!r} is {term.item()} on sound pictures: guard its logarithms and divisions"
            )


def check_gradients(specimen: Specimen) -> None:
    """Every parameter is reached in the epochs in which it is not frozen. A gradient that is 0 is one; there may be none
    to have (a bias before a norm)."""
    learner = specimen.learner()
    _show_images(learner, specimen)
    if not any(True for _ in learner.parameters()):
        return
    learner.train()
    epochs, stages = max(1, specimen.config.train.epochs), set[frozenset[str]]()
    for epoch in range(1, epochs + 1):
        learner.epoch_start(epoch, epochs)
        trained = frozenset(name for name, parameter in learner.named_parameters() if parameter.requires_grad)
        if trained and trained not in stages:
            stages.add(trained)
            _check_reached(learner, specimen)
    others = {id(parameter) for parameter in learner.scene.backbone.parameters()}
    for name, parameter in learner.named_parameters():
        own = specimen.of_interest(name) and id(parameter) not in others
        if own and not any(name in trained for trained in stages):
            raise Defect(f"{name} is frozen in every epoch: thaw it in epoch_start(), or hold it as a buffer")


def _check_reached(learner: Learner, specimen: Specimen) -> None:
    learner.zero_grad()
    terms = learner.loss(learner(specimen.batch))
    contract.check_differentiable(terms)
    learner.backward(terms)
    lacking = contract.unreached(learner)
    for name, parameter in learner.named_parameters():
        if not specimen.of_interest(name) or not parameter.requires_grad:
            continue
        if name in lacking:
            raise Defect(_why_unreached(learner, specimen, name))
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise Defect(f"the gradient of {name} is not finite: guard roots and divisions at 0")


def _why_unreached(learner: Learner, specimen: Specimen, name: str) -> str:
    """The loss is at fault where the answers depend on a parameter, and a component where they don't."""
    outputs, parameter = learner(specimen.batch), learner.get_parameter(name)
    made = {"logits": outputs.logits, "text features": outputs.views["image"].text}
    for what, tensor in made.items():
        if not tensor.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(tensor.sum(), [parameter], retain_graph=True, allow_unused=True)
        if gradient is not None:
            return f"the {what} depend on {name}, and no term of the loss does: compute one from them, without detach()"
    return f"no gradient reaches {name}: use it in the forward pass, or hold it as a buffer"


def _show_images(learner: Learner, specimen: Specimen) -> None:
    learner.eval()
    learner.start([specimen.batch])


def check_backbone_untouched(specimen: Specimen) -> None:
    """Training leaves the backbone as it was: weights, features, frozen, in evaluation mode, and not the learner's."""
    backbone = tiny_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pixels = specimen.batch.views["image"]
    features = backbone.encode_image(pixels).pooled
    learner = specimen.learner(backbone=backbone)
    shared = {id(parameter) for parameter in backbone.parameters()}
    for name, parameter in learner.named_parameters():
        if id(parameter) in shared:
            raise Defect(f"{name} is the backbone's: reach the backbone through self.scene, and register no part of it")
    learner = specimen.trained(backbone=backbone)
    specimen.answer(learner)
    changed = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    if changed:
        raise Defect(f"training changed the backbone's {changed[0]}: it is frozen, so learn tensors of your own")
    open_ = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    if open_:
        raise Defect(f"the backbone's {open_[0]} was left taking gradients: don't call requires_grad_ on the backbone")
    left = [name for name, parameter in backbone.named_parameters() if parameter.grad is not None]
    if left:
        raise Defect(f"a gradient was left on the backbone's {left[0]}: its parameters take none")
    if any(module.training for module in backbone.modules()):
        raise Defect("the backbone was left in training mode: don't call train() on a part of it")
    if not torch.equal(backbone.encode_image(pixels).pooled, features):
        raise Defect(
            "the backbone's image features are others after training: remove hooks and patches after each call"
        )


def check_batch(specimen: Specimen) -> None:
    """A picture's prediction is the same alone and among others, as pixels and as features; a stream's end nowhere else."""
    learner = specimen.trained()
    together = specimen.answer(learner)
    spec = learner.required_features()
    if spec:
        seen = spec.encode(torch.cat(list(specimen.asked.views.values())))
        features = replace(seen, views=tuple(specimen.asked.views))
        if not close(specimen.answer(learner, Batch(NoPixels(), specimen.asked.label, features)), together):
            raise Defect(
                "a prediction from features differs from that of the pixels: read batches through self.image_features()"
            )
    if learner.adapts == "transductive":
        return
    learner.reset()
    alone = torch.cat([learner.predict(part) for part in specimen.one_by_one])
    if not close(alone, together):
        raise Defect(
            "a prediction depends on where batches end: let it depend on the pictures before it alone"
            if learner.adapts
            else "a prediction depends on the rest of the batch: in evaluation compute each row from its own picture alone"
        )


def check_test_time(specimen: Specimen) -> None:
    """Test pictures leave no trace, or along a stream none that `reset` does not wipe out; nothing learned is changed."""
    learner = specimen.trained()
    learner.zero_grad()
    learned = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    first = specimen.answer(learner)
    stir()
    match learner.adapts:
        case "online":
            _check_stream(specimen, learner, first)
        case "transductive":
            backwards = {name: view.flip(0) for name, view in specimen.asked.views.items()}
            if not close(specimen.answer(learner, replace(specimen.asked, views=backwards)).flip(0), first):
                raise Defect("the order of a domain's pictures changes the predictions: all are answered at once")
        case _:
            ahead = [learner.predict(part) for part in specimen.one_by_one]
            back = [learner.predict(part) for part in specimen.one_by_one[::-1]]
            again = learner.predict(specimen.asked)
            if not (close(torch.cat(back[::-1]), torch.cat(ahead)) and close(again, first)):
                raise Defect(
                    'test pictures leave a trace: put everything back, or say adapts = "online" and forget in reset()'
                )
    for name, tensor in learner.state_dict().items():
        if name not in learned or not torch.equal(tensor, learned[name]):
            raise Defect(f"predict() changes {name}: keep what is seen of test pictures out of parameters and buffers")
    if any(parameter.grad is not None for parameter in learner.parameters()):
        raise Defect("predict() leaves gradients on parameters: take them with torch.autograd.grad()")


def _check_stream(specimen: Specimen, learner: Learner, first: Tensor) -> None:
    """The state is empty after `reset`, and the order of the pictures matters through it alone."""
    if not close(specimen.answer(learner), first):
        raise Defect("after reset() predictions are others: forget all test pictures there")
    fresh, backwards = specimen.trained(), specimen.one_by_one[::-1]
    fresh.reset()
    learner.reset()
    told, again = (torch.cat([one.predict(part) for part in backwards]) for one in (fresh, learner))
    if not close(again, told):
        raise Defect(
            "the stream before reset() changes predictions after it: keep all that is seen in what reset() clears"
        )


def check_saving(specimen: Specimen) -> None:
    """What was learned is in the state: a fresh learner with it predicts the same."""
    learner = specimen.trained()
    state = load(save({name: tensor.contiguous() for name, tensor in learner.state_dict().items()}))
    fresh = specimen.learner(seed=2)
    contract.check_state(state, fresh.state_dict())
    fresh.load_state_dict(state)
    if not close(specimen.answer(fresh.eval()), specimen.answer(learner)):
        raise Defect(
            "predictions differ after saving and loading: keep all that is learned or drawn in parameters or buffers"
        )


def check_classes(specimen: Specimen) -> None:
    """Other class names can be asked about, in any order; class-specific contexts are asked about some of their own."""
    learner = specimen.trained()
    before = specimen.answer(learner)
    if learner.prompts.class_specific:
        asked = (CLASSES[2], CLASSES[0])
        learner.set_classes(asked)
        if not close(specimen.answer(learner), before[:, [2, 0]]):
            raise Defect(
                "asked about some of its classes, the logits are not theirs: keep classes in the order of training"
            )
    else:
        try:
            learner.set_classes(OTHER_CLASSES)
            logits = specimen.answer(learner)
            learner.set_classes(OTHER_CLASSES[::-1])
            flipped = specimen.answer(learner)
        except Exception as error:
            raise Defect(
                f"asked about new class names it fails ({type(error).__name__}: {_line(error)}): make texts for the classes "
                "handed in, not for those of the scene, or declare `class_specific`"
            ) from error
        if logits.shape != (len(CLASSES), len(OTHER_CLASSES)) or not torch.isfinite(logits).all():
            raise Defect(
                f"asked about {len(OTHER_CLASSES)} new classes it gives {tuple(logits.shape)}: make texts for the classes "
                "handed in, not for those of the scene, or declare `class_specific`"
            )
        if not close(flipped, logits.flip(1)):
            raise Defect("the logits of a class depend on its place among the classes: treat every class alike")
    learner.set_classes(CLASSES)
    if not close(specimen.answer(learner), before):
        raise Defect("asked about its classes again, the logits have changed: keep nothing of the classes asked before")


def check_seed(specimen: Specimen) -> None:
    """The same seed gives the same learner, whatever else has drawn random numbers."""
    first = specimen.trained()
    stir()
    again = specimen.trained()
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        if a.shape != b.shape or not torch.equal(a, b):
            raise Defect(f"{name} differs between two runs of the same seed: draw from torch's generator and no other")
    if not torch.equal(specimen.answer(first), specimen.answer(again)):
        raise Defect("predictions differ between two runs of the same seed: draw from torch's generator and no other")


def check_bf16(specimen: Specimen) -> None:
    """Under bf16 autocast, terms and gradients are finite."""
    learner = specimen.learner()
    _show_images(learner, specimen)
    learner.train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = learner.loss(learner(specimen.batch))
    wrong = [name for name, term in terms.items() if not torch.isfinite(term)]
    if wrong:
        raise Defect(
            f"under bf16 the loss term {wrong[0]!r} is not finite: compute it in float32, as in tensor.float()"
        )
    if any(True for _ in learner.parameters()):
        learner.backward(terms)
        for name, parameter in learner.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise Defect(f"under bf16 the gradient of {name} is not finite: compute what is delicate in float32")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
