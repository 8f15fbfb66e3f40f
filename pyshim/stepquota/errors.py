"""The errors of stepquota: one class for each SQLSTATE of class WQ.

All are :class:`psycopg.DatabaseError`, so code that handles the errors of the database handles
these too, and ``with connection.transaction():`` rolls back as it does for any other. After one of
them the transaction is aborted, as after every error of PostgreSQL. A denied step is no error: it
is an answer, and the transaction goes on.

Errors that are not stepquota's pass through as psycopg raises them, for instance
:class:`psycopg.errors.SerializationFailure` (40001), :class:`psycopg.errors.DeadlockDetected`
(40P01) and :class:`psycopg.errors.LockNotAvailable` (55P03). Arguments that cannot be sent at all
raise :class:`TypeError` or :class:`ValueError` before anything is sent.
"""

from __future__ import annotations

from typing import ClassVar

import psycopg

__all__ = [
    "BatchClosed",
    "BoundToTenant",
    "CronInOtherDatabase",
    "CronMissing",
    "CronNotGranted",
    "CronRoleCannotLogIn",
    "CronScheduleNotSupported",
    "InvalidArgument",
    "InvalidPolicyValue",
    "MalformedStripeObject",
    "MissingDefaultTier",
    "OtherStripeAccount",
    "RoleNotBindable",
    "RunEnded",
    "RunNotQuotaPaused",
    "RunNotWaiting",
    "RunRegisteredDifferently",
    "StaleDelivery",
    "StalePause",
    "StepAlreadyFinished",
    "StepquotaError",
    "StripeListingIncomplete",
    "StripeSyncRunning",
    "TooManyUnseen",
    "UnknownBatch",
    "UnknownGrant",
    "UnknownPeriod",
    "UnknownPolicy",
    "UnknownResumption",
    "UnknownRun",
    "UnknownStep",
    "UnknownWait",
    "UnsupportedStripeObject",
    "WaitNotResolvable",
]


class StepquotaError(psycopg.DatabaseError):
    """An error that stepquota raised in the database: an SQLSTATE of class WQ.

    ``sqlstate`` is the code. ``diag`` has everything that PostgreSQL reported, and the error that
    psycopg raised is the ``__cause__``. An SQLSTATE that this release does not know, because the
    installed functions are newer, is raised as this class itself.
    """

    by_sqlstate: ClassVar[dict[str, type[StepquotaError]]] = {}

    def __init_subclass__(cls, sqlstate: str) -> None:
        """Give the class its SQLSTATE."""
        # Not psycopg's own class keyword, which would register the class for the whole process.
        super().__init_subclass__()
        cls.sqlstate = sqlstate
        StepquotaError.by_sqlstate[sqlstate] = cls

    @property
    def message(self) -> str:
        """What is wrong, in one line; it is the same for every occurrence."""
        return self.diag.message_primary or ""

    @property
    def detail(self) -> str | None:
        """The values that it is about."""
        return self.diag.message_detail

    @property
    def hint(self) -> str | None:
        """What to do."""
        return self.diag.message_hint


class InvalidArgument(StepquotaError, sqlstate="WQ001"):
    """An argument is NULL, empty, out of range or not one of the words that are known."""


class UnknownRun(StepquotaError, sqlstate="WQ002"):
    """The tenant has no such run: it was never registered, or it is another tenant's."""


class RunNotWaiting(StepquotaError, sqlstate="WQ003"):
    """The run cannot be resumed because it is not WAITING."""


class RunNotQuotaPaused(StepquotaError, sqlstate="WQ004"):
    """The run cannot be resumed because it waits for something else than quota."""


class StalePause(StepquotaError, sqlstate="WQ005"):
    """The run cannot be resumed because its quota pause is of another node than it stands at."""


class RunEnded(StepquotaError, sqlstate="WQ006"):
    """The run has ended, so that nothing of it can start, wait or finish."""


class StaleDelivery(StepquotaError, sqlstate="WQ007"):
    """The resumption was delivered to another worker since: this one must let go of the run."""


class UnknownStep(StepquotaError, sqlstate="WQ008"):
    """The attempt that is to be finished was never started."""


class StepAlreadyFinished(StepquotaError, sqlstate="WQ009"):
    """The attempt is already finished, with another status."""


class UnknownWait(StepquotaError, sqlstate="WQ010"):
    """The tenant has no such wait."""


class WaitNotResolvable(StepquotaError, sqlstate="WQ011"):
    """The wait is a quota wait, which only quota resolves, or it was cancelled."""


class RunRegisteredDifferently(StepquotaError, sqlstate="WQ012"):
    """The run id is taken by a run of another workflow or another runtime."""


class UnknownResumption(StepquotaError, sqlstate="WQ013"):
    """The tenant has no such resumption."""


class UnknownPolicy(StepquotaError, sqlstate="WQ014"):
    """There is no policy of that name."""


class InvalidPolicyValue(StepquotaError, sqlstate="WQ015"):
    """The value does not fit the policy."""


class MalformedStripeObject(StepquotaError, sqlstate="WQ016"):
    """The object has not the shape that Stripe gives to objects of its type."""


class UnsupportedStripeObject(StepquotaError, sqlstate="WQ017"):
    """The mirror keeps no objects of that type."""


class UnknownPeriod(StepquotaError, sqlstate="WQ018"):
    """The tenant has no period that starts there."""


class MissingDefaultTier(StepquotaError, sqlstate="WQ019"):
    """The tier of policy default_tier does not exist, and the tenant has no other."""


class CronMissing(StepquotaError, sqlstate="WQ020"):
    """pg_cron is not installed in this database."""


class CronNotGranted(StepquotaError, sqlstate="WQ021"):
    """The caller may not use pg_cron."""


class CronInOtherDatabase(StepquotaError, sqlstate="WQ022"):
    """pg_cron runs in another database of this server."""


class CronScheduleNotSupported(StepquotaError, sqlstate="WQ023"):
    """The schedule is malformed, or the installed pg_cron is too old for it."""


class CronRoleCannotLogIn(StepquotaError, sqlstate="WQ024"):
    """pg_cron could not run the job, because the role it would run as cannot log in."""


class UnknownBatch(StepquotaError, sqlstate="WQ025"):
    """The tenant has no such batch."""


class BatchClosed(StepquotaError, sqlstate="WQ026"):
    """The batch is closed: it cannot be opened again, nor closed with another count."""


class OtherStripeAccount(StepquotaError, sqlstate="WQ030"):
    """The Stripe mirror belongs to another account or mode than the key."""


class TooManyUnseen(StepquotaError, sqlstate="WQ031"):
    """So many objects of the Stripe mirror were not listed that nothing is taken for deleted."""


class StripeSyncRunning(StepquotaError, sqlstate="WQ032"):
    """Another full sync of the Stripe mirror is running."""


class StripeListingIncomplete(StepquotaError, sqlstate="WQ033"):
    """The listing of a full sync of the Stripe mirror is not complete."""


class UnknownGrant(StepquotaError, sqlstate="WQ040"):
    """The tenant has no such grant."""


class BoundToTenant(StepquotaError, sqlstate="WQ050"):
    """The caller's role is bound to a tenant, and may not do this.

    The call is for another tenant or for all of them, or it decides about the tenant's limits.
    """


class RoleNotBindable(StepquotaError, sqlstate="WQ051"):
    """There is no such role, nothing could hold it, or it is bound to another tenant."""
