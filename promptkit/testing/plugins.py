"""A plugin registered without being installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from promptkit import registry
from promptkit.errors import PluginError


@contextmanager
def registered(plugin: Any, package: str = "plugin-under-test") -> Iterator[registry.Registry]:
    """Within the block, `plugin` (a module, or any object with hooks; or several in a list) is installed beside the others.

    An installed plugin of that package name steps aside, so that a package's own tests run whether or not it is
    installed. Raises PluginError when the plugin is broken, with the cause that `promptkit list` would print.
    """
    fresh = registry.discover(without=package)
    for one in plugin if isinstance(plugin, list | tuple) else [plugin]:
        fresh.load(partial(lambda one: one, one), package, "0")
    for broken in fresh.broken:
        if broken.package == package:
            raise PluginError(broken.cause)
    with registry.using(fresh):
        yield fresh
