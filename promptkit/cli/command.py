"""A command that answers words it has no place for with what was meant."""

import os
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from promptkit.errors import ConfigError


class Command(TyperCommand):
    """Raises ConfigError for words that are left over."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed, takes_more = list(args), ctx.allow_extra_args
        ctx.allow_extra_args = True
        rest: list[str] = super().parse_args(ctx, args)
        if ctx.args and not takes_more:
            raise ConfigError(
                f"promptkit {self.name} has no place for: {' '.join(ctx.args)}", self._meant(typed, ctx.args)
            )
        return rest

    def _meant(self, typed: Sequence[str], extra: Sequence[str]) -> str:
        at = typed.index(extra[0])
        option, value = typed[at - 2 : at] if at > 1 else ("", "")
        takes = {
            name: str(getattr(parameter, "help", "")).lower() for parameter in self.params for name in parameter.opts
        }
        if option == "--set" and "=" not in value:
            return f"did you mean --set {value}={extra[0]}?"
        if "comma-separated" in takes.get(option, ""):
            return f"did you mean {option} {','.join((value, *extra))}?"
        if "--data" in takes and os.path.exists(extra[0]):
            return f"did you mean --data {extra[0]}?"
        return f"promptkit {self.name} --help shows what it takes"
