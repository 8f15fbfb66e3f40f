"""Recorded answers of the real Stripe, where they are: they are no part of the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

Object = dict[str, Any]

_FOLDER = Path("shared") / "stripe_objects"


def list_recordings() -> list[Path]:
    """Their files, in the folder named by STEPQUOTA_STRIPE_OBJECTS or beside the clone, or none."""
    places = [parent / _FOLDER for parent in Path(__file__).resolve().parents[2].parents]
    if named := os.environ.get("STEPQUOTA_STRIPE_OBJECTS"):
        places = [Path(named)]
    return next((files for place in places if (files := sorted(place.glob("*.json")))), [])


def recorded(name: str) -> Object:
    """One of them, by the name of its file without .json; skips the test where they are not."""
    files = {file.stem: file for file in list_recordings()}
    if not files:
        pytest.skip("no recorded objects of Stripe")
    shape: Object = json.loads(files[name].read_text(encoding="utf-8"))
    return shape
