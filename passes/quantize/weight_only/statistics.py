"""What a method may know of the input of the product that reads a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class InputStatistics(Protocol):
    """Moments of the rows x [K] that a weight [K, N] multiplied during calibration."""

    @property
    def rows(self) -> int:
        """How many rows there were."""

    @property
    def magnitude(self) -> npt.NDArray[np.float32]:
        """The mean of |x| [K]."""

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The mean of x x^T [K, K]: half the Hessian of the product's squared error."""

    @property
    def drift(self) -> npt.NDArray[np.float32] | None:
        """[K, K]: weight + drift @ weight makes up for rows that are no more the original's; None where they are."""
