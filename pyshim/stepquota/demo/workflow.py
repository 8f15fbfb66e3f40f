"""The demo's workflow: an order is packed, paid, approved by a person, shipped and confirmed.

Ten counted steps a run: one that reads the order, a forEach with a body step for each of three
items (4), a payment that fails once and is tried again (2), a person's approval, an event, and the
confirmation.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from .runner import Run, TryAgain

STEPS_A_RUN = 10
ITEMS_AN_ORDER = 3

# As long as a quick call of another service takes.
_CALL_SECONDS = 0.004


def fulfil_order(run: Run) -> dict[str, Any]:
    """The program: what one run does, from its first step to its last."""
    order = run.step("root.steps[0]", lambda _attempt: _read_order(run.job.run_id))
    parcels = run.for_each(
        "root.steps[1]",
        order["items"],
        lambda path, item: run.step(f"{path}.steps[0]", lambda _attempt: _pack(item)),
    )
    payment = run.step("root.steps[2]", lambda attempt: _charge(order, attempt), tries=2)
    approval = run.wait_for("root.steps[3]", "human", {"approve": order["total"]})
    shipping = run.wait_for("root.steps[4]", "event", {"shipped": parcels})
    confirmation: dict[str, Any] = run.step(
        "root.steps[5]", lambda _attempt: _confirm(order, payment, approval, shipping)
    )
    return confirmation


def _read_order(run_id: str) -> dict[str, Any]:
    time.sleep(_CALL_SECONDS)
    digest = hashlib.sha256(run_id.encode()).digest()
    items = [
        {"article": f"A{digest[i]:03}", "price": 5 + digest[i] % 40} for i in range(ITEMS_AN_ORDER)
    ]
    return {"items": items, "total": sum(item["price"] for item in items)}


def _pack(item: dict[str, Any]) -> str:
    time.sleep(_CALL_SECONDS)
    return f"parcel of {item['article']}"


def _charge(order: dict[str, Any], attempt: int) -> str:
    time.sleep(_CALL_SECONDS)
    if attempt == 1:
        raise TryAgain("the payment service did not answer in time")
    return f"paid {order['total']} EUR"


def _confirm(
    order: dict[str, Any], payment: str, approval: dict[str, Any], shipping: dict[str, Any]
) -> dict[str, Any]:
    time.sleep(_CALL_SECONDS)
    return {
        "payment": payment,
        "approved_by": approval["by"],
        "carrier": shipping["carrier"],
        "items": len(order["items"]),
    }
