"""Recorded answers of the real Stripe, where they are: they are no part of the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

Object = dict[str, Any]

_FOLDER = Path("shared") / "stripe_objects"


def find_recordings() -> Path | None:
    """Their folder: named by STEPQUOTA_STRIPE_OBJECTS, or beside the clone."""
    if named := os.environ.get("STEPQUOTA_STRIPE_OBJECTS"):
        return Path(named)
    parents = Path(__file__).resolve().parents[2].parents
    return next((p / _FOLDER for p in parents if (p / _FOLDER).is_dir()), None)


def recorded(name: str) -> Object:
    """One of them, by the name of its file without .json; skips the test where they are not."""
    folder = find_recordings()
    if folder is None:
        pytest.skip("no recorded Stripe objects are beside the clone")
    shape: Object = json.loads((folder / f"{name}.json").read_text())
    return shape
