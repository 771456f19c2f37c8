"""An InferenceSession on exactly the execution provider that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passes.errors import CannotRun
from targets.onnxruntime.settings import PROVIDERS, Settings, provider_is_here

if TYPE_CHECKING:
    from pathlib import Path


def open_session(model: Path | bytes, settings: Settings, *, options: Any) -> Any:
    """Return the InferenceSession. Lets the runtime's own errors through; they carry the cause.

    Raises CannotRun when the execution provider is not here, or the runtime took another one instead of it.
    """
    import onnxruntime

    require_provider(settings)
    wanted = PROVIDERS[settings.provider]
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=[wanted])
    taken = session.get_providers()
    if not taken or taken[0] != wanted:
        raise CannotRun(
            f"ONNX Runtime runs the model on {', '.join(taken)} instead of {wanted}.",
            hint=f"Check the driver and libraries that {wanted} needs; nothing falls back silently.",
        )
    return session


def require_provider(settings: Settings) -> None:
    """Raise CannotRun when the installed ONNX Runtime lacks the execution provider."""
    import onnxruntime

    if not provider_is_here(settings):
        raise CannotRun(
            f"The installed ONNX Runtime has no {PROVIDERS[settings.provider]}; "
            f"it has {', '.join(onnxruntime.get_available_providers())}.",
            hint="Install the ONNX Runtime package for this device, or take provider=cpu.",
        )
