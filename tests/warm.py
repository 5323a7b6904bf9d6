"""Forks commands, or other code, for `WarmProcess`: imports take seconds, a fork none.

Nothing here may start a thread, which a fork would leave behind.
"""

import json
import os
import signal
import sys

import albumentations  # noqa: F401
import open_clip  # noqa: F401
import scipy.special  # noqa: F401

import promptkit.cli
import promptkit.experiments.runner
import promptkit.testing
import promptkit.training.run
from promptkit.registry import installed

installed()


def start(words: list[str], log: str | None = os.devnull) -> int:
    """A command in a process of its own, whose output goes to a file, or with log=None where ours goes."""
    child = os.fork()
    if child:
        return child
    if log:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
    sys.argv = ["promptkit", *words]
    try:
        promptkit.cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


for line in sys.stdin:
    tasks, children = json.loads(line), []
    for task in tasks:  # noqa: B007
        child = os.fork()
        if not child:
            break
        children.append(child)
    else:
        statuses: dict[int, int] = {}
        while len(statuses) < len(children):
            child, status = os.wait()
            statuses[child] = os.waitstatus_to_exitcode(status)
            if statuses[child]:  # as torchrun does
                for other in set(children) - set(statuses):
                    os.kill(other, signal.SIGKILL)
        print(json.dumps([statuses[child] for child in children]), flush=True)
        continue
    signal.alarm(900)
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["variables"])
    for number, name in enumerate((os.devnull, task["out"], task["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o666), number)
    sys.argv = task["words"]
    if task["code"]:
        exec(compile(task["code"], "code", "exec"))
    else:
        promptkit.cli.main()
    break
