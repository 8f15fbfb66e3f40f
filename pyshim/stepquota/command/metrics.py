"""``stepquota metrics``: figures in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import output
from .session import AsJson, DatabaseUrl, opened

if TYPE_CHECKING:
    from ..results import Metric


def metrics(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Print all metrics in Prometheus's text format, for node_exporter's textfile collector."""
    from .. import metrics as read_metrics

    with opened(database_url, "stepquota_observer") as connection:
        found = read_metrics(connection)
    if as_json:
        output.print_json(found)
        return
    previous = None
    for metric in sorted(found, key=lambda m: m.name):
        if metric.name != previous:
            print(f"# TYPE {metric.name} gauge")
            previous = metric.name
        print(f"{metric.name}{_labels(metric)} {metric.value:.15g}")


def _labels(metric: Metric) -> str:
    pairs = [f'{name}="{_escape(value)}"' for name, value in sorted(metric.labels.items())]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
