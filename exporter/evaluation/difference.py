"""One output's difference from the original's, summed up sample by sample in float64 and bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from exporter.results import OutputAccuracy

if TYPE_CHECKING:
    import numpy.typing as npt

    from targets.base import Array

    Floats = npt.NDArray[np.float64]

SHORTEST_ROW = 8
"""Below this many elements a row's direction is noise; all samples then count as one row."""

NEGLIGIBLE_NORM = 0.1
"""Rows under this share of the root-mean-square row norm have no reliable direction: the least cosine leaves them out.

They still count in every other figure."""

FEWEST_CLASSES = 10
"""A two-dimensional float output of at least this many columns is taken for logits, as is one whose name says so."""

CHUNK_ELEMENTS = 1 << 22


def is_exact(dtype: np.dtype[np.generic]) -> bool:
    """Return whether outputs of `dtype` are compared for equality: integers, booleans, strings."""
    return dtype.kind in "iubSUO"


def is_logits(name: str, values: Array) -> bool:
    """Return whether an output's greatest element along the last axis is an answer: its top-1 agreement is reported.

    Yes for [N, C] of at least 10 columns, and for any [..., C] whose name contains "logits". It is judged only by a
    user's gate.
    """
    if values.ndim < 2 or values.shape[-1] < 2 or values.dtype.kind == "c":
        return False
    return "logits" in name.lower() or (values.ndim == 2 and values.shape[1] >= FEWEST_CLASSES)


def rows_of(values: Floats) -> Floats | None:
    """Return `values` as the rows [R, K] that cosines are taken over, or None where rows would be too short.

    Up to three dimensions a row runs along the last axis ([B, S, H] has B x S rows); from four on it is one item of
    the first axis, flattened.
    """
    if values.ndim == 0 or values.size == 0:
        return None
    rows = values.reshape(values.shape[0], -1) if values.ndim > 3 else values.reshape(-1, values.shape[-1])
    return rows if rows.shape[1] >= SHORTEST_ROW else None


@dataclass(slots=True)
class _Staircase:
    """The least cosine over rows of at least any given norm, exactly, without keeping all rows.

    Kept are the rows, by falling norm, that have a lower cosine than all rows of greater norm.
    """

    norms: Floats = field(default_factory=lambda: np.empty(0))
    cosines: Floats = field(default_factory=lambda: np.empty(0))

    def add(self, norms: Floats, cosines: Floats) -> None:
        norms, cosines = np.concatenate([self.norms, norms]), np.concatenate([self.cosines, cosines])
        order = np.lexsort((cosines, -norms))
        norms, cosines = norms[order], cosines[order]
        least_before = np.minimum.accumulate(np.concatenate([[np.inf], cosines[:-1]]))
        kept = cosines < least_before
        self.norms, self.cosines = norms[kept], cosines[kept]

    def least(self, floor: float) -> float:
        inside = self.cosines[self.norms >= floor]
        return float(inside.min()) if inside.size else math.nan


@dataclass(slots=True)
class Difference:
    """The running comparison of one output. `add` only pairs of equal shape; `result` may be asked at any time."""

    name: str
    exact: bool = False
    problems: list[str] = field(default_factory=list)
    elements: int = 0
    _signal: float = 0.0  # sum of reference^2
    _error: float = 0.0
    _candidate: float = 0.0  # sum of candidate^2
    _dot: float = 0.0
    _max_abs: float = 0.0
    _reference_max: float = 0.0
    _worst_error_power: float = 0.0
    _worst_sample: str = ""
    _row_power: float = 0.0
    _rows: int = 0
    _stairs: _Staircase = field(default_factory=_Staircase)
    _agreeing: int = 0
    _compared: int = 0
    _first_item: Array | None = None
    _items: int = 0
    _is_constant: bool = True
    _non_finite: int = 0

    def add(self, reference: Array, candidate: Array, *, sample: str) -> None:
        """Count one sample; `sample` names it in words."""
        self._note_constant(reference)
        if self.exact:
            self._agreeing += int(np.count_nonzero(reference == candidate))
            self._compared += reference.size
            if reference.dtype.kind in "SUO":
                self.elements += reference.size
                return
        error_before, elements_before = self._error, self.elements
        for start in range(0, max(reference.size, 1), CHUNK_ELEMENTS):
            piece = slice(start, start + CHUNK_ELEMENTS)
            self._add_elements(
                as_float64(reference.reshape(-1)[piece]).ravel(), as_float64(candidate.reshape(-1)[piece]).ravel()
            )
        if self.elements > elements_before:
            power = (self._error - error_before) / (self.elements - elements_before)
            if power > self._worst_error_power or not self._worst_sample:
                self._worst_error_power, self._worst_sample = power, sample
        if not self.exact:
            self._add_rows(reference, candidate)
            if is_logits(self.name, reference):
                self._add_answers(as_float64(reference), as_float64(candidate))

    def _add_elements(self, reference: Floats, candidate: Floats) -> None:
        finite = np.isfinite(reference) & np.isfinite(candidate)
        if not finite.all():
            reference, candidate = reference[finite], candidate[finite]
        if not reference.size:
            return
        difference = candidate - reference
        self.elements += reference.size
        self._signal += float(reference @ reference)
        self._candidate += float(candidate @ candidate)
        self._dot += float(reference @ candidate)
        self._error += float(difference @ difference)
        self._max_abs = max(self._max_abs, float(np.abs(difference).max()))
        self._reference_max = max(self._reference_max, float(np.abs(reference).max()))

    def _add_rows(self, reference: Array, candidate: Array) -> None:
        ours, theirs = rows_of(as_float64(reference)), rows_of(as_float64(candidate))
        if ours is None or theirs is None:
            return
        finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
        ours, theirs = ours[finite], theirs[finite]
        norms, others = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
        self._row_power += float(norms @ norms)
        self._rows += norms.size
        product = norms * others
        dots = np.einsum("rk,rk->r", ours, theirs)
        cosines = np.divide(dots, product, out=np.zeros_like(dots), where=product > 0)
        self._stairs.add(norms[norms > 0], np.clip(cosines[norms > 0], -1.0, 1.0))

    def _add_answers(self, reference: Floats, candidate: Floats) -> None:
        finite = np.isfinite(reference).all(axis=-1) & np.isfinite(candidate).all(axis=-1)
        agree = reference[finite].argmax(axis=-1) == candidate[finite].argmax(axis=-1)
        self._agreeing += int(np.count_nonzero(agree))
        self._compared += agree.size

    def _note_constant(self, reference: Array) -> None:
        items = reference if reference.ndim else reference.reshape(1)
        if not items.size:
            return
        self._items += len(items)
        if self._first_item is None:
            self._first_item = items[0].copy()
        if self._is_constant:
            first = self._first_item
            self._is_constant = first.shape == items.shape[1:] and bool(np.all(items == first))

    def result(self) -> OutputAccuracy:
        """Return the figures over all samples so far."""
        return OutputAccuracy(
            name=self.name,
            elements=self.elements,
            sqnr_db=decibels(self._signal, self._error) if self.elements else math.nan,
            cosine=self._cosine(),
            max_abs=self._max_abs,
            reference_max_abs=self._reference_max,
            top1_agreement=self._agreeing / self._compared if self._compared else None,
            problems=tuple(self.problems),
            worst_sample_sqnr_db=(
                decibels(self._signal / self.elements, self._worst_error_power) if self.elements else math.nan
            ),
            worst_sample=self._worst_sample if self._worst_error_power > 0 else "",
            is_exact=self.exact,
            notes=tuple(self._notes()),
        )

    def _cosine(self) -> float:
        if self.exact or self._signal == 0:
            return math.nan
        if self._rows:
            return self._stairs.least(NEGLIGIBLE_NORM * math.sqrt(self._row_power / self._rows))
        product = math.sqrt(self._signal) * math.sqrt(self._candidate)
        return max(-1.0, min(1.0, self._dot / product)) if product > 0 else 0.0

    def _notes(self) -> list[str]:
        if not self.elements:
            return ["it has no elements on any sample"]
        if self._signal == 0 and not self.exact:
            return ["the original's output is zero for every sample: the comparison proves little"]
        if self._is_constant and self._items > 1:
            return ["the original's output is the same for every sample: the comparison proves little"]
        return []


def decibels(signal: float, error: float) -> float:
    """Return 10 log10(signal / error): inf without error, -inf for an error on a zero signal."""
    if error == 0:
        return math.inf
    return 10.0 * math.log10(signal / error) if signal / error > 0 else -math.inf


def as_float64(values: Array) -> Floats:
    """Return `values` as float64; complex ones as pairs of real and imaginary parts along a last axis."""
    if values.dtype.kind == "c":
        values = np.stack([values.real, values.imag], axis=-1)
    return np.asarray(values, dtype=np.float64)
