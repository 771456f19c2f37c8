"""What runs in a process of its own, since a runtime's native code can crash or hang: the first load of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from passes.errors import BuildFailed, CannotRun
from targets.onnxruntime.blockers import cause_from_error
from targets.onnxruntime.executed import executed_from_graph, watch_optimized_graph
from targets.onnxruntime.session import open_session
from targets.onnxruntime.settings import Settings, session_options


def prove(
    path: str,
    scratch: str,
    settings: Mapping[str, Any],
    threads: int,
    planned: Sequence[str],
    named: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return what runs, after loading the written model as `open` will. The caller removes the folder `scratch`.

    Raises CannotRun without the execution provider, BuildFailed with the runtime's cause when it refuses.
    """
    chosen = Settings(**settings)
    options = session_options(chosen, threads=threads)
    executed = watch_optimized_graph(options, Path(scratch))
    try:
        open_session(Path(path), chosen, options=options)
    except CannotRun:
        raise
    except Exception as error:  # the runtime raises a dozen classes without a common base
        raise BuildFailed(f"ONNX Runtime does not load the model: {cause_from_error(error)}") from error
    return executed_from_graph(executed, planned, named=named)
