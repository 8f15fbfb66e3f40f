"""What the workflow's side and the activity's side of the adapter say to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

# The workflow's side sends this along with each activity that is metered.
TICKET_HEADER = "stepquota"
# Whose workflow it is; sent along to children and to those that are continued as new.
TENANT_HEADER = "stepquota-tenant"
# What the dispatcher sends to a workflow that rests.
SIGNAL = "stepquota_resume"
# The adapter's own local activities begin so.
OWN_ACTIVITIES = "stepquota_"
# The activity's side marks its answers so, lest they be taken for results.
_MARK = "stepquota"

Refusal = Literal["quota_paused", "held", "unreachable"]


def write_json(value: Any, **metadata: bytes) -> Payload:
    """As a payload that needs no converter of the application's."""
    return Payload(
        metadata={"encoding": b"json/plain", **metadata}, data=json.dumps(value).encode()
    )


def read_json(payload: Payload) -> Any:
    """What ``write_json`` wrote."""
    return json.loads(payload.data)


@dataclass(frozen=True)
class Ticket:
    """What an activity is to stepquota.

    Attributes:
        tenant: whose quota it is.
        run_id: the run.
        node_path: its place in the run.
        attempts_before: how many attempts it had before it rested: Temporal counts anew then.
        is_registered: whether the run is known to be registered.
        heartbeat_details: those of the last attempt before it rested, encoded, as text.
    """

    tenant: str
    run_id: str
    node_path: str
    attempts_before: int = 0
    is_registered: bool = False
    heartbeat_details: list[str] | None = None

    def header(self) -> dict[str, Payload]:
        """As a header."""
        return {TICKET_HEADER: write_json(asdict(self))}

    @classmethod
    def read(cls, headers: Mapping[str, Payload]) -> Self | None:
        """The ticket among the headers, if there is one."""
        payload = headers.get(TICKET_HEADER)
        return cls(**read_json(payload)) if payload else None


@dataclass(frozen=True)
class Refused:
    """What the activity's side answers in place of a result when the attempt has not started.

    Attributes:
        outcome: why; ``unreachable`` is for a database that did not answer.
        attempt: the attempt, as Temporal counts it since the activity was scheduled.
        seconds: how long ago that was, by Temporal's clock.
        heartbeat_details: those of the attempt before, encoded, as text.
    """

    outcome: Refusal
    attempt: int
    seconds: float
    heartbeat_details: list[str] | None = None

    def result(self) -> RawValue:
        """As the activity's result."""
        return RawValue(write_json(asdict(self), **{_MARK: b"refused"}))

    @classmethod
    def read(cls, payload: Payload) -> Self | None:
        """The refusal that the payload is, if it is one."""
        return cls(**read_json(payload)) if _MARK in payload.metadata else None
