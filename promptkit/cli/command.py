"""A command that answers words it has no place for with what was meant."""

import os
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from promptkit.errors import ConfigError


class Command(TyperCommand):
    """Raises ConfigError for words that are left over."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed, takes_more = list(args), ctx.allow_extra_args
        ctx.allow_extra_args = True
        rest: list[str] = super().parse_args(ctx, args)
        if ctx.args and not takes_more:
            raise ConfigError(f"{ctx.command_path} has no place for: {' '.join(ctx.args)}", self._meant(ctx, typed))
        return rest

    def _meant(self, ctx: Any, typed: Sequence[str]) -> str:
        extra = ctx.args
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
        return f"{ctx.command_path} --help shows what it takes"


class DefaultGroup(TyperGroup):
    """Commands of which the first is meant where the first word names none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, self.completed(args))
        return rest

    def completed(self, words: list[str]) -> list[str]:
        """What is typed behind the group's name, with that of the command that is meant."""
        if words and words[0] not in (*self.commands, "--help"):
            return [next(iter(self.commands)), *words]
        return words
