"""timm's optimisers, and what they keep: as tensors and plain values, read as if a stranger had sent them."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor

from promptkit.errors import ConfigError, PluginError
from promptkit.files import is_number
from promptkit.learner import Learner
from promptkit.runs.state import Training
from promptkit.runs.tensorfile import misfits
from promptkit.settings import TrainSettings


def make_optimizer(learner: Learner, settings: TrainSettings) -> torch.optim.Optimizer:
    """timm's optimiser of that name, of the learner's groups. Raises ConfigError when timm has none.

    PluginError when the groups leave a parameter out, or hold one that is not the learner's.
    """
    groups = parameter_groups(learner, settings.weight_decay)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            groups,
            opt=settings.optimizer,
            lr=settings.lr,
            weight_decay=0.0,
            momentum=settings.momentum,
        )
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"train.optimizer={settings.optimizer!r}: {error}", "such as momentum, sgd or adamw"
        ) from None
    return optimizer


def parameter_groups(learner: Learner, weight_decay: float) -> list[dict[str, Any]]:
    """The learner's groups; where one has no weight decay of its own, biases and norms have none, as in timm.

    Raises PluginError.
    """
    names = {parameter: name for name, parameter in learner.named_parameters()}
    made: list[dict[str, Any]] = []
    seen: set[Tensor] = set()
    for group in learner.parameter_groups():
        parameters = list(group["params"])
        for parameter in parameters:
            if parameter in seen or parameter not in names:
                about = f"{names[parameter]} twice" if parameter in seen else "what is no parameter of the learner"
                raise PluginError(f"parameter_groups() of {type(learner).__name__} holds {about}")
            seen.add(parameter)
        if "weight_decay" in group:
            made.append({**group, "params": parameters})
            continue
        plain = [p for p in parameters if not weight_decay or p.ndim <= 1 or names[p].endswith(".bias")]
        decayed = [p for p in parameters if p not in {*plain}]
        split = (plain, 0.0), (decayed, weight_decay)
        made += [{**group, "params": part, "weight_decay": decay} for part, decay in split if part]
    if missing := [name for parameter, name in names.items() if parameter not in seen]:
        raise PluginError(
            f"parameter_groups() of {type(learner).__name__} leaves {missing[0]} out",
            "freeze what should not be trained with requires_grad_(False)",
        )
    return made


def optimizer_state(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]]:
    """What `load_optimizer` takes: tensors by "optimizer" or "group", index and name, and the plain values of both."""
    state = optimizer.state_dict()["state"]
    # Some count their steps in the group, among the settings, as a number or a tensor.
    added = [
        {name: value for name, value in group.items() if name not in optimizer.defaults}
        for group in optimizer.param_groups
    ]
    tensors = {f"optimizer.{name}": tensor.detach().cpu() for name, tensor in _tensors(state).items()}
    tensors |= {f"group.{name}": tensor.detach().cpu() for name, tensor in _tensors(dict(enumerate(added))).items()}
    scalars = {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if value is not None and not isinstance(value, Tensor)
    }
    groups = [{name: value for name, value in group.items() if is_number(value)} for group in added]
    return tensors, scalars, groups


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    learner: Learner,
    learned: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    groups: Mapping[str, Tensor],
    plain: Training,
) -> None:
    """Fill an optimiser with what it kept, and the learner with what was learned.

    What an optimiser keeps has no declared shape: a step tells, and one from these values has to leave finite parameters.
    Raises ValueError, or whatever torch raises, where it does not.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = _by_index({**state, **plain.optimizer})
    if unknown := kept.keys() - set(range(len(parameters))):
        raise ValueError(f"there is no parameter {min(unknown)} to optimise")
    counted, settings = _by_index(groups), optimizer.state_dict()["param_groups"]
    for index, (numbers, group) in enumerate(zip(plain.groups, settings, strict=True)):
        group |= {**numbers, **counted.get(index, {})}
        if (numbers.keys() | counted.get(index, {}).keys()) & optimizer.defaults.keys():
            raise ValueError("its groups have other settings")

    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    made, given = _tensors(optimizer.state_dict()["state"]), _tensors(kept)
    common = made.keys() & given.keys()
    if wrong := misfits({name: given[name] for name in common}, {name: made[name] for name in common}):
        raise ValueError(f"the optimiser's {'; '.join(wrong)}")
    learner.load_state_dict(learned)
    optimizer.load_state_dict({"param_groups": deepcopy(settings), "state": deepcopy(kept)})
    optimizer.step()
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise ValueError("the optimiser would make parameters that are not finite")

    optimizer.zero_grad()
    learner.load_state_dict(learned)
    optimizer.load_state_dict({"param_groups": settings, "state": kept})


def _tensors(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The tensors of a state by index and name."""
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _by_index(values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for key, value in values.items():
        index, _, name = key.partition(".")
        found.setdefault(int(index), {})[name] = value
    return found
