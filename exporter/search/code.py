"""A hash of graphwright itself: what one version found says nothing about another."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def hash_of_own_code() -> str:
    """Return the SHA-256 over all of our modules."""
    home = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("exporter", "passes", "targets"):
        for path in sorted((home / package).rglob("*.py")):
            digest.update(str(path.relative_to(home)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
