"""`promptkit push` and `promptkit pull`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options


def push(
    run: Annotated[Path, typer.Argument(help="A folder that promptkit train made.", metavar="RUN", show_default=False)],
    repository: Annotated[str, typer.Argument(help="On the Hugging Face hub.", metavar="ORG/NAME", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that others can't see.")] = False,
    debug: options.Debug = False,
) -> None:
    """Upload a finished run to the Hugging Face hub, with a model card.

    The card has the figures of the answers that eval --keep kept last. Its licence is yours to fill in.
    """
    from promptkit.cli.console import console
    from promptkit.cli.plugins import warn_broken
    from promptkit.registry import installed
    from promptkit.report.card import model_card
    from promptkit.runs import hub

    warn_broken(installed())
    hub.checked(repository)
    where = hub.push(run, repository, model_card(run, repository), private)
    console().print(f"pushed {run}: {where}; say in its README.md under which licence", soft_wrap=True, markup=False)


def pull(
    repository: Annotated[
        str, typer.Argument(help="On the Hugging Face hub.", metavar="ORG/NAME[@REVISION]", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run; runs/NAME by default.", show_default=False)
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Fetch a run from the Hugging Face hub. Nothing of it is executed.

    predict, eval and the others take hf-hub:ORG/NAME in a run's place, too.
    """
    from promptkit.cli.console import console
    from promptkit.runs import hub

    folder = out or Path("runs") / hub.checked(repository).partition("@")[0].partition("/")[2]
    hub.pull(repository, folder)
    console().print(f"pulled {folder}; next: promptkit predict {folder} PICTURES...", soft_wrap=True, markup=False)
