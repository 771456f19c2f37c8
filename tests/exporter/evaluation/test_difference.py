from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.evaluation import difference
from exporter.evaluation.difference import NEGLIGIBLE_NORM, Difference, decibels, rows_of


def figures(pairs):
    running = Difference("y")
    for index, (reference, candidate) in enumerate(pairs):
        running.add(reference, candidate, sample=f"sample {index}")
    return running.result()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([(3, 16), (2, 3, 9), (2, 3, 4, 4), (2, 2), (12,)]))
def test_streaming_equals_the_figures_over_everything_at_once(seed, samples, shape):
    rng = np.random.default_rng(seed)
    references = [rng.normal(size=shape) * rng.lognormal(0, 2) for _ in range(samples)]
    candidates = [value + rng.normal(size=shape) * 0.1 for value in references]
    result = figures(zip(references, candidates, strict=True))
    everything, other = np.concatenate([r.ravel() for r in references]), np.concatenate([c.ravel() for c in candidates])
    error = other - everything
    assert result.sqnr_db == pytest.approx(10 * np.log10((everything @ everything) / (error @ error)))
    assert result.max_abs == pytest.approx(np.abs(error).max())
    assert result.elements == everything.size
    worst = max(np.mean((c - r) ** 2) for r, c in zip(references, candidates, strict=True))
    assert result.worst_sample_sqnr_db == pytest.approx(10 * np.log10(np.mean(everything**2) / worst))
    rows = [rows_of(value) for value in references]
    if rows[0] is None:
        expected = everything @ other / np.linalg.norm(everything) / np.linalg.norm(other)
    else:
        ours, theirs = np.vstack(rows), np.vstack([rows_of(value) for value in candidates])
        norms = np.linalg.norm(ours, axis=1)
        cosines = (ours * theirs).sum(axis=1) / norms / np.linalg.norm(theirs, axis=1)
        expected = cosines[norms >= NEGLIGIBLE_NORM * np.sqrt(np.mean(norms**2))].min()
    assert result.cosine == pytest.approx(expected)


def test_the_rows_of_an_embedding_run_along_the_last_axis_and_of_an_image_over_all_of_it():
    assert rows_of(np.zeros((2, 5, 32))).shape == (10, 32)
    assert rows_of(np.zeros((2, 3, 8, 8))).shape == (2, 192)
    assert rows_of(np.zeros(16)).shape == (1, 16)
    assert rows_of(np.zeros((4, 2))) is None
    assert rows_of(np.zeros(())) is None


def test_one_wrong_row_shows_in_the_cosine():
    reference = np.random.default_rng(0).normal(size=(100, 32))
    candidate = reference.copy()
    candidate[42] = reference[41]
    assert figures([(reference, candidate)]).cosine < 0.7
    assert figures([(reference, reference)]).cosine == pytest.approx(1)


def test_a_negligible_row_has_no_direction_but_a_vanished_one_does():
    reference = np.random.default_rng(0).normal(size=(100, 32))
    reference[3] *= 1e-6
    candidate = reference.copy()
    candidate[3] *= -1
    assert figures([(reference, candidate)]).cosine == pytest.approx(1)
    candidate[5] = 0
    assert figures([(reference, candidate)]).cosine == 0


def test_memory_stays_bounded_in_the_number_of_rows():
    running, rng = Difference("y"), np.random.default_rng(0)
    for index in range(50):
        reference = rng.normal(size=(1000, 16))
        running.add(reference, reference + 0.1 * rng.normal(size=reference.shape), sample=str(index))
    assert running._stairs.norms.size < 100


def test_large_arrays_are_summed_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    pair = (rng.normal(size=(7, 11)), rng.normal(size=(7, 11)))
    whole = figures([pair])
    monkeypatch.setattr(difference, "CHUNK_ELEMENTS", 5)
    pieces = figures([pair])
    assert pieces.sqnr_db == pytest.approx(whole.sqnr_db)
    assert pieces.max_abs == whole.max_abs
    assert pieces.worst_sample_sqnr_db == pytest.approx(whole.worst_sample_sqnr_db)


def test_top1_counts_rows_of_logits_only():
    logits = np.eye(20)
    other = logits.copy()
    other[:5] = np.roll(other[:5], 1, axis=1)
    assert figures([(logits, other)]).top1_agreement == 0.75
    assert figures([(logits[:, :9], logits[:, :9])]).top1_agreement is None
    assert figures([(logits[None], logits[None])]).top1_agreement is None
    named = Difference("Answer_Logits")
    named.add(logits[None, :, :2], other[None, :, :2], sample="0")
    assert named.result().top1_agreement == np.mean(logits[:, :2].argmax(1) == other[:, :2].argmax(1)) < 1


def test_decibels_at_the_ends():
    assert decibels(1, 0) == math.inf
    assert decibels(0, 1) == -math.inf
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(5e-324, 1e300) == -math.inf


def test_nothing_compared_has_no_ratio():
    result = Difference("y").result()
    assert math.isnan(result.sqnr_db)
    assert math.isnan(result.worst_sample_sqnr_db)
    assert result.notes
