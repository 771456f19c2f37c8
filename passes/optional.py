"""Optional packages: import one, or say whether it is absent or broken and how to mend that."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from passes.errors import MissingDependency


def require(module: str, *, extra: str, need: str) -> ModuleType:
    """Return the imported module.

    Raises MissingDependency, with `need` as its subject ("The openvino target"), when the module is absent or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        absent = importlib.util.find_spec(top) is None
        hint = f"pip install 'graphwright[{extra}]'" if absent else f"{top} is installed but broken: {error}"
        raise MissingDependency(f"{need} needs '{module}'.", hint=hint) from error
