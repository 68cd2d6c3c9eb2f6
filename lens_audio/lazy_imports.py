"""Public names of a package that are imported on first use: `import lens_audio` stays light."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_first_use(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        homes: by public name, the module in `lens_audio` that has it, or of this name ("plots" in
            "plots").
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"lens_audio.{homes[name]}")
        return module if homes[name].split(".")[-1] == name else getattr(module, name)

    return get, lambda: import_module(package).__all__
