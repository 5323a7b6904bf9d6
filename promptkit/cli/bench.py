"""`promptkit bench`"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError, UnknownNameError
from promptkit.settings import split_names

if TYPE_CHECKING:
    from rich.console import Console

    from promptkit.experiments.estimate import Estimate
    from promptkit.experiments.plan import Training
    from promptkit.experiments.runner import Outcome, Runner


@options.with_settings("bench")
def bench(
    protocol: Annotated[
        str,
        typer.Argument(
            help="base-to-new, few-shot, cross-dataset, domain-generalization, leave-one-domain-out or domain-adaptation.",
            show_default=False,
        ),
    ],
    learners: Annotated[
        str,
        typer.Option(
            help="Comma-separated recipes, some with settings (gopro[loss.contrast=0,loss.consistency=0]) and a name "
            "(plain=gopro[...]), or a .toml file with a table for each."
        ),
    ] = "zeroshot,coop,gopro",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SLOT.FIELD=VALUE,VALUE,...",
            help="Make a variant with each value of every learner that has the setting. Repeatable: all combinations.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of pictures or a manifest, repeatable; with --datasets, the folder that holds their folders.",
            show_default=False,
        ),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names below --data: see promptkit list dataset. Where a protocol transfers, those to "
            "test on: the ten of CoOp, or the four variants of ImageNet, by default.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="What to train on: the data set, where a protocol transfers (imagenet by default); else the domains "
            "(all by default).",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "1,2,3",
    shots: Annotated[
        str | None,
        typer.Option(
            help="Training pictures per class and domain, 0 for all; 16 by default, and 1,2,4,8,16 for few-shot.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and results.")] = Path("results"),
    shard: Annotated[
        str, typer.Option(help="I/N: every N-th run, from the I-th on, of 0 to N-1; for processes that share --out.")
    ] = "0/1",
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Runs side by side, each on a GPU of its own or a share of the cores; 1 by default, and with --on one for "
            "each run.",
            min=1,
            max=1024,
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="slurm|local",
            help="Hand the runs to Slurm, or to the background of this machine, by submitit; then see promptkit runs.",
            show_default=False,
        ),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Of Slurm.", show_default=False)] = None,
    time: Annotated[
        int | None, typer.Option(metavar="MINUTES", help="That a job may take.", min=1, show_default=False)
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Of each job.", min=0, show_default=False)] = None,
    parameters: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .toml file of submitit's parameters, such as mem_gb = 64 or slurm_account = ...",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Learners, or all: the differences of every two beside the tables, paired by data set and seed.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep/--no-keep", help="Keep each picture's answer, in records/ of the run's folder."),
    ] = True,
    plan: Annotated[bool, typer.Option("--plan", help="Say what there is to do, and do nothing.")] = False,
    given: options.Given = options.NOTHING,
    cache: options.Cache = True,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[LEARNER:]SLOT.FIELD=VALUE",
            help="A setting of one learner (coop:prompts.n_ctx=4), or of all that have it. Repeatable.",
            show_default=False,
        ),
    ] = None,
    templates: options.Templates = None,
    debug: options.Debug = False,
) -> None:
    """Train and test many learners as the papers do, and print their tables.

    What is done is skipped: the same command goes on where it was stopped, and tries again what failed. The exit status
    is 1 when something did.
    """
    import os

    from promptkit.cli.console import console
    from promptkit.cli.plugins import warn_broken
    from promptkit.cli.table import print_tables
    from promptkit.experiments.cluster import check_place, read_parameters, submit
    from promptkit.experiments.estimate import Estimate
    from promptkit.experiments.jobs import run_jobs
    from promptkit.experiments.order import Order
    from promptkit.experiments.plan import Request
    from promptkit.experiments.protocols import check_protocol
    from promptkit.experiments.results import read_results
    from promptkit.experiments.variants import split_learners
    from promptkit.faults import explained
    from promptkit.files import check_writable
    from promptkit.registry import installed

    check_protocol(protocol)
    if on is not None:
        check_place(on)
    for name, value in (("--partition", partition), ("--time", time), ("--gpus", gpus), ("--parameters", parameters)):
        if value is not None and not on:
            raise ConfigError(f"{name} is for jobs that are handed over", "such as: --on slurm")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("promptkit bench starts its processes itself", "say how many with --jobs")
    sets = list(set_ or ())
    if templates:  # as --set, it goes to the learners that have such a setting
        sets.insert(0, f"prompts.template={options.read_templates(templates)}")
    registry, terminal = installed(), console()
    warn_broken(registry)
    request = Request(
        protocol,
        split_learners(learners),
        options.numbers("--seeds", seeds),
        options.numbers("--shots", shots or ("1,2,4,8,16" if protocol == "few-shot" else "16")),
        source or "",
        given,
        sets,
        vary or (),
    )
    order = Order(request, data or (), split_names(datasets or ""), out, _shard(shard), cache, keep)
    opened = order.opened(registry)
    for found in opened:
        terminal.print(f"{found.name}: {found.dataset.layout}", soft_wrap=True, markup=False)
    runner = order.runner(opened, registry, terminal)
    names = list(dict.fromkeys(training.learner.name for training in runner.plan.trainings))
    compared = names if compare == "all" else split_learners(compare or "")
    for name in compared:
        if name not in names:
            raise UnknownNameError("learner to compare", name, [*names, "all"])
    if not plan:
        check_writable(out, "choose another --out")
    estimate = Estimate(runner, jobs=jobs or 1)
    _print_plan(terminal, runner, detailed=plan)
    if plan:
        terminal.print(_left(estimate), soft_wrap=True)
        return
    if on and runner.todo():
        table = read_parameters(parameters) if parameters else {}
        typed = {"slurm_partition": partition, "timeout_min": time, "gpus_per_node": gpus}
        table |= {key: value for key, value in typed.items() if value is not None}
        _print_submitted(terminal, on, submit(order, runner, on, jobs, table), out)
        return
    try:
        if jobs:
            terminal.print(_left(estimate), soft_wrap=True)
            outcome = run_jobs(order, runner, jobs, terminal, _reporter(terminal, runner, estimate))
        else:
            estimate.measure()
            terminal.print(_left(estimate), soft_wrap=True)
            outcome = runner.run(_reporter(terminal, runner, estimate))
    except KeyboardInterrupt as error:
        if explained(error, registry):
            raise
        terminal.print(f"stopped; what is finished is in {out}, and the same command goes on", soft_wrap=True)
        raise typer.Exit(130) from None
    _print_outcome(terminal, outcome)
    if any(runner.state(training) == "done" for training in runner.plan.trainings):
        results = [result for result in read_results([out]) if result.protocol == protocol]
        tested = {result.learner for result in results}
        there = [name for name in compared if name in tested]
        print_tables(results, compare=",".join(there) if len(there) > 1 else None)
    raise typer.Exit(int(bool(outcome.failures)))


def _shard(text: str) -> tuple[int, int]:
    first, slash, step = text.partition("/")
    if not (slash and first.isdecimal() and step.isdecimal() and int(first) < int(step)):
        raise ConfigError(
            f"--shard {text}: expected I/N, with I from 0 to N - 1", "such as 0/2 and 1/2, for two processes"
        )
    return int(first), int(step)


def _print_plan(terminal: "Console", runner: "Runner", detailed: bool) -> None:
    from collections import Counter

    from rich.table import Table

    from promptkit.cli.console import escape

    states: dict[Training, str] = {training: runner.state(training) for training in runner.trainings}
    if detailed:
        table = Table("run", "trains on", "tests", "state", box=None)
        for training, state in states.items():
            on = _many(sum(training.dataset.counts("train")), "picture")
            tests = f"{len(training.targets)}, {len(runner.missing(training))} to do"
            table.add_row(escape(str(training.folder)), on, tests, state)
        terminal.print(table)
    counts = Counter(states.values())
    known = ("done", "trained", "stopped", "running", "damaged", "new")
    listed = ", ".join(f"{counts[state]} {state}" for state in known if counts[state])
    left = sum(len(runner.missing(training)) for training in runner.trainings)
    terminal.print(
        f"{runner.plan.protocol}: {_many(len(states), 'run')} ({listed}), {_many(left, 'test')} to do", soft_wrap=True
    )


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _left(estimate: "Estimate") -> str:
    """What is known of the time that is left, and what is not."""
    from promptkit.progress import format_duration

    left = estimate.remaining()
    unknown = [f"training {', '.join(left.untimed)}"] if left.untimed else []
    unknown += [f"testing {', '.join(left.untested)}"] if left.untested else []
    if not unknown:
        return f"{format_duration(left.seconds)} left, testing included" if left.seconds else "nothing left to do"
    text = f"{format_duration(left.seconds)} left" if left.seconds else ""
    if left.untimed:
        text = f"{text or f'{estimate.images_left():,} pictures to train on, over all epochs'}"
    return f"{text}, " * bool(text) + f"and not known yet how long {' and '.join(unknown)} takes"


def _reporter(terminal: "Console", runner: "Runner", estimate: "Estimate") -> "Callable[[Training, float], None]":
    from promptkit.experiments.runner import UNTRAINED

    todo = [training for training in runner.trainings if runner.state(training) in UNTRAINED]

    def report(training: "Training", seconds: float) -> None:
        done = sum(runner.state(one) not in UNTRAINED for one in todo)
        terminal.print(
            f"trained {training.folder} in {seconds:.1f} s, {done} of {len(todo)}; {_left(estimate)}",
            soft_wrap=True,
            markup=False,
        )

    return report


def _print_submitted(terminal: "Console", on: str, jobs: "Sequence[Any]", out: Path) -> None:
    """What was handed over, how to look at it and how to stop it."""
    from promptkit.experiments.cluster import LOGS

    if not jobs:
        terminal.print("nothing to hand over: others are busy with what is left, or will be", soft_wrap=True)
        return
    ids = [str(job.job_id) for job in jobs]
    if on == "slurm":
        ids = [ids[0].partition("_")[0]]
    cancel = "scancel" if on == "slurm" else "kill -INT"
    terminal.print(
        f"{_many(len(jobs), 'job')} on {on}; promptkit runs {out} says how far they are, logs are in {out / LOGS}, "
        f"{cancel} {' '.join(ids)} stops them; the same command goes on, and prints the tables when all is done",
        soft_wrap=True,
        markup=False,
    )


def _print_outcome(terminal: "Console", outcome: "Outcome") -> None:
    from promptkit.cli.console import escape

    for folder in outcome.elsewhere:
        terminal.print(f"{escape(str(folder))} is left to the process that is busy with it", soft_wrap=True)
    for failure in outcome.failures:
        terminal.print(f"[red bold]failed:[/] {escape(f'{failure.folder}: {failure.message}')}", soft_wrap=True)
    if outcome.failures:
        terminal.print("[bold]hint:[/]  the same command tries again; delete a run's folder to begin it anew")
