"""Working off events: ask Stripe for each object once, write it, mark its events done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg

from ..errors import MalformedStripeObject, OtherStripeAccount, StepquotaError
from ..problems import Problem
from .api import API_VERSION, Object, StripeApi, StripeRefused, StripeRejected, StripeUnavailable
from .mirror import Claim, Mirror

log = logging.getLogger(__name__)

CLAIMED = 20
"""Events that are taken at a time: few, so that several workers share what comes in at once."""

_CONFLICTS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


@dataclass(frozen=True, slots=True)
class WorkDone:
    """What one turn, or several, did.

    Attributes:
        objects: Objects that were asked for and written.
        events: Events that are done with.
        failed: Events that were put off or given up.
    """

    objects: int = 0
    events: int = 0
    failed: int = 0

    def __add__(self, other: WorkDone) -> WorkDone:
        return WorkDone(
            self.objects + other.objects, self.events + other.events, self.failed + other.failed
        )


def open_mirror(mirror: Mirror, api: StripeApi) -> None:
    """See that the key is of the mirror's account and mode, before anything is believed of it.

    A key that may not say whose it is must see at least one object of the mirror.

    Raises:
        Problem: It is another's.
        StripeRefused: The key is not accepted.
        StripeUnavailable: Stripe cannot be asked.
    """
    account = api.find_account()
    if account is None:
        witnesses = mirror.list_witnesses()
        seen = (api.retrieve(w.object_type, w.object_id) for w in witnesses)
        if witnesses and all(object_.get("deleted") for object_ in seen):
            raise Problem(
                f"the Stripe key sees none of {len(witnesses)} objects of the mirror",
                "it seems to be another account's; nothing was changed",
            )
    try:
        mirror.bind(account, api.livemode, API_VERSION)
    except OtherStripeAccount as error:
        raise Problem(f"{error.message}: {error.detail}", error.hint or "") from error


def work_off(mirror: Mirror, api: StripeApi, max_events: int = CLAIMED) -> WorkDone:
    """One turn: take pending events and work them off.

    Returns:
        What was done; nothing if nothing was due.

    Raises:
        StripeRefused: The key is not accepted or lacks a permission. The events are due again
            soon and no attempt is counted.
        StripeUnavailable: Stripe cannot be asked now. The same.
    """
    done = WorkDone()
    claims = mirror.claim(max_events)
    for number, claim in enumerate(claims):
        try:
            done += _work_off(mirror, api, claim)
        except (StripeRefused, StripeUnavailable) as error:
            left = [event for other in claims[number:] for event in other.event_ids]
            mirror.fail(left, str(error), is_attempt=False)
            raise
    if claims:
        finish_changes(mirror)
    return done


def work_off_all(
    mirror: Mirror, api: StripeApi, should_stop: Callable[[], bool] = lambda: False
) -> WorkDone:
    """Turn after turn, until nothing is due."""
    total = WorkDone()
    while not should_stop():
        done = work_off(mirror, api)
        if done == WorkDone():
            break
        total += done
    return total


def finish_changes(mirror: Mirror) -> None:
    """What a change leaves to do beyond its own transaction, in transactions of bounded size."""
    while mirror.spread():
        pass
    if mirror.has_due_tenants():
        mirror.resume_due()


def _work_off(mirror: Mirror, api: StripeApi, claim: Claim) -> WorkDone:
    fetched_at = mirror.read_clock()
    try:
        object_ = api.retrieve(claim.object_type, claim.object_id)
        _write(mirror, claim, object_, fetched_at)
    except (StripeRejected, MalformedStripeObject) as error:
        problem = str(error)
        if isinstance(error, StepquotaError):
            problem = f"{error.message}: {error.detail}"
        log.warning("%s %s: %s", claim.object_type, claim.object_id, problem)
        mirror.fail(claim.event_ids, problem, is_attempt=True)
        return WorkDone(failed=len(claim.event_ids))
    return WorkDone(objects=1, events=len(claim.event_ids))


def _write(mirror: Mirror, claim: Claim, object_: Object, fetched_at: datetime) -> None:
    for tries_left in (2, 1, 0):
        try:
            with mirror.connection.transaction():
                mirror.apply(object_, fetched_at)
                mirror.finish(claim.event_ids)
        except _CONFLICTS:
            if not tries_left:
                raise
        else:
            return
