"""The full sync: everything that Stripe lists, and then a look for what is gone.

It is the first filling of the mirror, and the daily proof that nothing was missed: in rare cases
Stripe cannot make an event at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import StripeSyncRunning, TooManyUnseen
from ..problems import Problem
from .api import ObjectType, Page, StripeApi, StripeRejected
from .mirror import ListingPosition, Mirror
from .work import finish_changes


class AnotherFullSync(Problem):
    """Another process runs a full sync of this mirror."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is, after each page.

    Attributes:
        object_type: What is being listed; None while missing objects are looked at.
        listed: How many of them were listed.
        total: How many there are, as far as can be told: what the mirror had at the start, or a
            guess by when they were made; None without any.
    """

    object_type: ObjectType | None
    listed: int
    total: int | None


@dataclass(slots=True)
class FullSync:
    """What a full sync did: a count for each type and action."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    is_complete: bool = False

    def count(self, object_type: str, action: str, objects: int = 1) -> None:
        """Count objects that got an action."""
        self.counts.setdefault(object_type, Counter())[action] += objects


def full_sync(
    mirror: Mirror,
    api: StripeApi,
    *,
    from_start: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FullSync:
    """List everything, then ask for what was not listed.

    Memory does not grow with the account. One that was stopped goes on where it was for an hour.

    Args:
        mirror: Where.
        api: The client.
        from_start: Begin anew even if one was stopped.
        force: Look at what is missing however much it is.
        on_progress: Called after each page.
        should_stop: Asked after each page.

    Raises:
        AnotherFullSync: Another one is running.
        Problem: Too much is missing.
        StripeRefused: The key is not accepted or lacks a permission; nothing is taken for deleted.
        StripeUnavailable: Stripe cannot be asked now; run it again, and it goes on.
    """
    try:
        positions = mirror.begin_sync(from_start)
    except StripeSyncRunning as error:
        raise AnotherFullSync(f"{error.message}: {error.detail}", error.hint or "") from error
    result = FullSync()
    try:
        try:
            done = _list_all(mirror, api, positions, result, on_progress, should_stop)
        except StripeRejected as error:
            if error.parameter != "starting_after":
                raise
            # The object after which it was to go on is gone.
            positions = mirror.begin_sync(from_start=True)
            result = FullSync()
            done = _list_all(mirror, api, positions, result, on_progress, should_stop)
        if done:
            done = _look_at_missing(mirror, api, force, result, on_progress, should_stop)
        if done:
            mirror.finish_sync({name: dict(counter) for name, counter in result.counts.items()})
            result.is_complete = True
    finally:
        if not result.is_complete:
            mirror.release_sync()
    finish_changes(mirror)
    return result


def _list_all(
    mirror: Mirror,
    api: StripeApi,
    positions: tuple[ListingPosition, ...],
    result: FullSync,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> bool:
    # While a page is being stored, the next one is asked for.
    with ThreadPoolExecutor(1, "stripe-list") as ahead:
        for position in positions:
            if position.is_complete:
                continue
            object_type, listed = position.object_type, position.listed
            guess = _Guess(api, position)
            fetched_at = mirror.read_clock()
            request = ahead.submit(api.list_objects, object_type, position.last_id)
            while True:
                page, page_fetched_at = request.result(), fetched_at
                if not page.is_last:
                    fetched_at = mirror.read_clock()
                    request = ahead.submit(api.list_objects, object_type, page.objects[-1]["id"])
                for row in mirror.store_page(
                    object_type, page.objects, page_fetched_at, page.is_last
                ):
                    result.count(object_type, row.action, row.objects)
                listed += len(page.objects)
                on_progress(Progress(object_type, listed, guess.total(listed, page)))
                if page.is_last:
                    break
                if should_stop():
                    return False
    return not should_stop()


class _Guess:
    """How many objects of a type there are, for the time left."""

    def __init__(self, api: StripeApi, position: ListingPosition):
        self._api = api
        self._position = position
        self._newest: int | None = None
        self._oldest = 0

    def total(self, listed: int, page: Page) -> int | None:
        """The guess after a page, when so many were listed."""
        if page.is_last:
            return listed
        if self._position.known > listed:
            return self._position.known
        if self._newest is None:
            self._newest = int(page.objects[0]["created"])
            self._oldest = self._api.find_oldest(self._position.object_type, self._newest)
        # As if they had been made at an even pace.
        passed = self._newest - int(page.objects[-1]["created"])
        span = self._newest - self._oldest
        return max(listed, listed * span // passed) if passed > 0 else None


def _look_at_missing(
    mirror: Mirror,
    api: StripeApi,
    force: bool,
    result: FullSync,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> bool:
    try:
        unseen = mirror.list_unseen(force)
    except TooManyUnseen as error:
        raise Problem(f"{error.message}: {error.detail}", error.hint or "") from error
    for number, name in enumerate(unseen, 1):
        if should_stop():
            return False
        fetched_at = mirror.read_clock()
        object_ = api.retrieve(name.object_type, name.object_id)
        for change in mirror.apply(object_, fetched_at):
            if (change.object_type, change.object_id) == (name.object_type, name.object_id):
                result.count(name.object_type, change.action)
        on_progress(Progress(None, number, len(unseen)))
    return True
