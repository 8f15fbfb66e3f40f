"""Random histories of one tenant, on one connection, beside the model of them."""

from __future__ import annotations

import json
import random
import sys
from contextlib import nullcontext
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from psycopg.pq import TransactionStatus

from acceptance.stripe_objects import Metadata, deleted, plan_of
from harness.databases import Database
from histories.model import Attempt, Model, Run, Subscription, add_months

TENANT = "acme"
BEGINNING = datetime(2026, 1, 5, 10, tzinfo=UTC)
LAST = datetime(2027, 12, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
MOVES = {
    "a second": timedelta(seconds=1),
    "past staleness": timedelta(seconds=31),
    "past a lease": timedelta(seconds=61),
    "past a promise": timedelta(minutes=6),
    "an hour": timedelta(hours=1),
    "a day": timedelta(days=1),
    "ten days": timedelta(days=10),
}

RUNS = ["r0", "r1", "r2", "r3"]
PATHS = ["a", "b", "c", "d"]
# Small ones are met; large ones are worth several lanes.
LIMITS = [1, 2, 3, 5, 8, 1100, 5000, None]

runs = st.sampled_from(RUNS)
attempts = st.tuples(st.sampled_from(PATHS), st.integers(1, 2))
limits = st.sampled_from(LIMITS)
plans = st.sampled_from(["one", "two"])

# All that the model knows, as the tables have it; and what verify_all finds.
STATE = """
select jsonb_build_object(
  'periods', (
    select jsonb_object_agg(extract(epoch from u.period_start), jsonb_build_array(u.used, u.unledgered))
      from (select l.period_start, sum(l.unledgered_count) as unledgered,
                   sum(l.used_count) + coalesce(min(p.carried_count), 0) as used
              from stepquota.workflow_step_usage_lanes l
              left join stepquota.workflow_step_usage_periods p
                on p.tenant = l.tenant and p.period_start = l.period_start
             group by l.period_start) u
     where u.used > 0),
  'runs', (
    select jsonb_object_agg(r.run_id, jsonb_build_array(r.status, r.node_path))
      from stepquota.workflow_runs r),
  'attempts', (
    select jsonb_agg(jsonb_build_array(s.run_id, s.node_path, s.attempt, s.status)
                     order by s.run_id, s.node_path, s.attempt)
      from stepquota.workflow_run_steps s),
  'waits', (
    select jsonb_object_agg(w.run_id, to_jsonb(w.node_paths))
      from stepquota.workflow_run_waits w where w.status = 'WAITING'),
  'resumptions', (
    select jsonb_agg(jsonb_build_array(r.run_id, to_jsonb(r.unentered_paths), r.status,
                                       cardinality(r.deliveries)) order by r.created_at, r.run_id)
      from stepquota.workflow_run_resumptions r),
  'violations', (select jsonb_agg(to_jsonb(v)) from stepquota.verify_all() v))
"""

SPLIT = """
select stepquota._fan_out_lane(q.tenant, q.period_start, 0)
  from stepquota.workflow_step_quotas q
"""

FILLED_TABLES = """
select c.oid::regclass::text
  from pg_class c
 where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')
   and not c.relispartition and c.relname not in ('policy', 'tiers', 'scan_state')
"""


def prepare(database: Database) -> psycopg.Connection[Any]:
    """A connection for machines, in a database that is ready for all moments of histories."""
    connection = database.connect(autocommit=True)
    connection.execute("update stepquota.policy set allow_test_clock = true")
    connection.execute("select set_config('stepquota.now', %s, false)", [str(BEGINNING)])
    connection.execute("select stepquota.make_ledger_partitions(24)")
    return connection


def clear(connection: psycopg.Connection[Any]) -> None:
    """Forget the tenant, in a fraction of the time that a new database would take.

    By TRUNCATE now and then: it makes sessions plan everything anew, but leaves no dead rows.
    """
    filled = connection.execute(FILLED_TABLES).fetchall()
    if random.random() < 0.04:
        connection.execute(f"truncate {', '.join(name for (name,) in filled)}".encode())
    for (name,) in filled:
        connection.execute(f"delete from {name}".encode())
    connection.execute("update stepquota.scan_state set inputs_compared_at = null")
    connection.execute("delete from stepquota.tiers where tier in ('one', 'two')")


class Histories(RuleBasedStateMachine):
    """Rules are what callers and operators do; after each, database and model must agree."""

    def __init__(self, connection: psycopg.Connection[Any]):
        super().__init__()
        self.connection = connection
        clear(connection)
        self.model = Model(BEGINNING, {"one": 3, "two": 3}, "one")
        self.claims: list[tuple[str, int]] = []
        self.subscription_count = 0
        # The model as it was when the transaction and each of its savepoints began.
        self.saved: list[Model] = []
        for name, limit in self.model.tiers.items():
            self.call("set_tier_limit", name, limit)
        self.call("set_policy", "usage_on_moved_period", "carry")
        self.call("set_policy", "usage_on_other_period", "reset")
        self.call("set_tenant_plan", TENANT, "one")
        self.model.look()

    # Carrying out -------------------------------------------------------------------------------

    def set_clock(self) -> None:
        """A rollback takes the setting back, and so it is set for every call."""
        self.connection.execute(
            "select set_config('stepquota.now', %s, false)", [self.model.now.isoformat()]
        )

    def call(self, function: str, *arguments: Any, error: str | None = None) -> list[dict[str, Any]]:
        """The rows that a function answers. One that must raise does it in a savepoint."""
        self.set_clock()
        places = ", ".join(["%s"] * len(arguments))
        with self.connection.transaction() if error else nullcontext():
            cursor = self.connection.execute(
                f"select * from stepquota.{function}({places})".encode(), arguments
            )
            names = [column.name for column in cursor.description or []]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return rows

    def value(self, query: str, *parameters: Any) -> Any:
        row = self.connection.execute(query.encode(), parameters or None).fetchone()
        assert row is not None
        return row[0]

    @property
    def is_in_transaction(self) -> bool:
        return bool(self.saved)

    @property
    def is_paused(self) -> bool:
        """Whether a change for all tenants looks at this one."""
        return bool(self.value("select exists (select from stepquota.paused_tenants)"))

    def restore(self, model: Model) -> None:
        """Undo everything but the time."""
        now = self.model.now
        self.model = deepcopy(model)
        self.model.now = now

    def refused(self, error: str | None, function: str, *arguments: Any) -> bool:
        """Whether a call must end with that error, and does."""
        if error is None:
            return False
        with pytest.raises(psycopg.Error) as caught:
            self.call(function, *arguments, error=error)
        assert caught.value.sqlstate == error, caught.value
        return True

    def check_quota(self, answer: dict[str, Any]) -> None:
        """The figures that every answer has."""
        model = self.model
        assert model.period is not None
        assert (answer["period_start"], answer["period_end"]) == model.period[:2]
        assert answer["effective_limit"] == model.limit
        # With several lanes the figure of a reservation may lag behind.
        if self.value("select lane_count from stepquota.workflow_step_quotas") == 1:
            assert answer["used_count"] == model.usage.used
        if model.limit is not None:
            assert answer["remaining"] == max(model.limit - answer["used_count"], 0)

    # After every rule ---------------------------------------------------------------------------

    @invariant()
    def database_and_model_agree(self) -> None:
        """Figures, runs, ledger, queue and outbox are those of the model, and nothing is violated."""
        model = self.model
        model.now += MILLISECOND
        state = self.value(STATE)
        assert state["violations"] is None
        assert (state["periods"] or {}) == {
            f"{start.timestamp():.6f}": [usage.used, usage.unledgered]
            for start, usage in model.periods.items()
            if usage.used
        }
        assert (state["runs"] or {}) == {
            run_id: [run.status, run.node_path] for run_id, run in model.runs.items()
        }
        assert (state["attempts"] or []) == sorted(
            [run_id, *attempt, status]
            for run_id, run in model.runs.items()
            for attempt, status in run.attempts.items()
        )
        assert (state["waits"] or {}) == {
            run_id: run.wait.paths for run_id, run in model.runs.items() if run.wait
        }
        resumptions = [(run_id, r) for run_id, run in model.runs.items() for r in run.resumptions]
        assert (state["resumptions"] or []) == [
            [run_id, r.unentered, r.status, len(r.deliveries)]
            for run_id, r in sorted(resumptions, key=lambda of: (of[1].created_at, of[0]))
        ]
        for run in model.runs.values():
            assert (run.status == "WAITING") <= (run.wait is not None and not run.goes_on)

    def teardown(self) -> None:
        """Whatever has happened: where there is enough quota, no run waits for any."""
        if sys.exc_info()[0] is None:
            if self.is_in_transaction:
                self.end_transaction(undoes=False)
            self.unsubscribe_now()
            self.set_tier_limit(self.model.plan, None)
            self.scan()
            assert not any(run.wait for run in self.model.runs.values())
            self.database_and_model_agree()
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            self.connection.execute("rollback")

    # Taking units -------------------------------------------------------------------------------

    @rule()
    def reserve_one(self) -> None:
        granted = self.model.reserve(1)
        (answer,) = self.call("reserve_workflow_step", TENANT)
        assert answer["allowed"] == (granted == 1)
        self.check_quota(answer)

    @rule(steps=st.sampled_from([1, 2, 3, 7, 64, 1000, 4000]), partly=st.booleans())
    def reserve_many(self, steps: int, partly: bool) -> None:
        granted = self.model.reserve(steps, partly)
        (answer,) = self.call("reserve_workflow_steps", TENANT, steps, partly)
        assert (answer["granted"], answer["allowed"]) == (granted, granted > 0)
        self.check_quota(answer)
        assert answer["used_count"] == self.model.usage.used

    @rule()
    def resolve(self) -> None:
        self.model.look()
        (answer,) = self.call("resolve_workflow_step_quota", TENANT)
        used, limit = self.model.usage.used, self.model.limit
        assert answer["allowed"] == (limit is None or used < limit)
        assert answer["used_count"] == used
        self.check_quota(answer)

    # Runs ---------------------------------------------------------------------------------------

    @initialize()
    def register_first(self) -> None:
        for run_id in RUNS[:2]:
            self.register(run_id)

    @rule(run_id=runs)
    def register(self, run_id: str) -> None:
        run = self.model.runs.setdefault(run_id, Run())
        (answer,) = self.call("register_workflow_run", TENANT, run_id)
        assert answer["status"] == run.status

    def refusal_to_start(
        self, run_id: str, wanted: list[Attempt], delivery: int | None
    ) -> str | None:
        """The SQLSTATE with which a start must end, if any."""
        run = self.model.runs.get(run_id)
        if run is None:
            return "WQ002"
        if delivery is not None and run.newest_delivery(delivery) != delivery:
            return "WQ007"
        if run.has_ended and any(run.attempts.get(a, "STARTED") == "STARTED" for a in wanted):
            return "WQ006"
        return None

    def find_delivery(self, run_id: str, age: int | None) -> int | None:
        """A number that a claim of the run has answered, or none."""
        numbers = [number for claimed, number in reversed(self.claims) if claimed == run_id]
        return numbers[age] if age is not None and age < len(numbers) else None

    @rule(
        run_id=runs,
        attempt=attempts,
        step_type=st.sampled_from(["action", "action", "forEach"]),
        age=st.none() | st.integers(0, 1),
    )
    def start_step(
        self, run_id: str, attempt: Attempt, step_type: str, age: int | None = None
    ) -> None:
        delivery = self.find_delivery(run_id, age)
        call = ("start_workflow_step", TENANT, run_id, *attempt, step_type, delivery)
        if self.refused(self.refusal_to_start(run_id, [attempt], delivery), *call):
            return
        run = self.model.runs[run_id]
        (outcome,) = self.model.start(run, [attempt], is_container=step_type == "forEach")
        (answer,) = self.call(*call)
        assert answer["outcome"] == outcome
        if outcome in ("started", "quota_paused"):
            assert answer["allowed"] == (outcome == "started")
            self.check_quota(answer)

    @rule(run_id=runs, wanted=st.lists(attempts, min_size=1, max_size=6))
    def start_steps(self, run_id: str, wanted: list[Attempt]) -> None:
        paths, numbers = [path for path, _ in wanted], [number for _, number in wanted]
        call = ("start_workflow_steps", TENANT, run_id, paths, numbers)
        if self.refused(self.refusal_to_start(run_id, wanted, None), *call):
            return
        outcomes = self.model.start(self.model.runs[run_id], wanted)
        answers = self.call(*call)
        assert [answer["outcome"] for answer in answers] == outcomes
        assert [(answer["node_path"], answer["attempt"]) for answer in answers] == wanted

    @rule(
        run_id=runs,
        attempt=attempts,
        status=st.sampled_from(["SUCCEEDED", "FAILED", "RETRY_SCHEDULED"]),
    )
    def finish_step(self, run_id: str, attempt: Attempt, status: str) -> None:
        run = self.model.runs.get(run_id)
        before = run.attempts.get(attempt) if run else None
        error = None
        if run is None:
            error = "WQ002"
        elif before is None:
            error = "WQ008"
        elif before not in ("STARTED", status):
            error = "WQ009"
        elif before == "STARTED" and run.has_ended:
            error = "WQ006"
        call = ("finish_workflow_step", TENANT, run_id, *attempt, status)
        if self.refused(error, *call):
            return
        if run and before == "STARTED":
            run.finish(attempt, status)
        (answer,) = self.call(*call)
        assert answer["status"] == status

    @rule(run_id=runs, path=st.sampled_from(PATHS))
    def retry_step(self, run_id: str, path: str) -> None:
        """A step fails and is tried again, as its runtime does."""
        run = self.model.runs.get(run_id)
        if run and not run.has_ended and run.attempts.get((path, 1)) == "STARTED":
            self.finish_step(run_id, (path, 1), "RETRY_SCHEDULED")
            self.start_step(run_id, (path, 2), "action")

    @rule(run_id=runs, status=st.sampled_from(["CANCELED", "SUCCEEDED", "FAILED"]))
    def end_run(self, run_id: str, status: str) -> None:
        call: tuple[str, ...] = ("finish_workflow_run", TENANT, run_id, status)
        if status == "CANCELED":
            call = ("cancel_workflow_run", TENANT, run_id)
        run = self.model.runs.get(run_id)
        error = None
        if run is None:
            error = "WQ002"
        elif run.has_ended and run.status != status:
            error = "WQ006"
        if self.refused(error, *call):
            return
        assert run is not None
        if not run.has_ended:
            run.end(status)
            if status == "CANCELED":
                for attempt, is_at in run.attempts.items():
                    run.attempts[attempt] = status if is_at == "STARTED" else is_at
        (answer,) = self.call(*call)
        assert answer["status"] == status

    # Going on -----------------------------------------------------------------------------------

    @rule(run_id=runs)
    def resume_by_hand(self, run_id: str) -> None:
        run = self.model.runs.get(run_id)
        error = None
        if run is None:
            error = "WQ002"
        elif run.has_ended:
            error = "WQ006"
        elif run.status != "WAITING":
            error = "WQ003"
        elif run.wait is None:
            error = "WQ004"
        elif run.node_path not in run.wait.paths:
            error = "WQ005"
        call = ("resume_workflow_run", TENANT, run_id, "because")
        if self.refused(error, *call):
            return
        assert run is not None
        reason = self.model.resume(run)
        (answer,) = self.call(*call)
        assert (answer["reason"], answer["resumed"]) == (reason, reason == "resumed")
        assert answer["used_count"] == self.model.usage.used

    @precondition(lambda self: not self.is_in_transaction)
    @rule()
    def scan(self) -> None:
        """After the policy's staleness, a scan resumes whatever can go on."""
        self.pass_time("past staleness")
        if self.is_paused or self.model.queue():
            self.model.look()
            self.model.resume_all()
        self.set_clock()
        self.connection.execute("call stepquota.resume_scan()")

    @rule(acknowledges=st.booleans())
    def claim(self, acknowledges: bool) -> None:
        """A worker takes all there is, and perhaps says that it will look after it."""
        self.claim_all()
        if acknowledges:
            for run in self.model.runs.values():
                for resumption in run.resumptions:
                    if resumption.status == "OPEN":
                        resumption.status = "ACKNOWLEDGED"
            self.connection.execute(
                "select stepquota.acknowledge_workflow_run_resumption(tenant, resumption_id)"
                "  from stepquota.workflow_run_resumptions"
            )

    def claim_all(self) -> list[tuple[str, str]]:
        """A worker takes all there is; answers which paths it is to enter."""
        model, wanted = self.model, {}
        for run_id, run in model.runs.items():
            for resumption in run.resumptions:
                if resumption.is_to_be_claimed(model.now):
                    wanted[run_id, *resumption.unentered] = resumption
        rows = self.call("claim_workflow_run_resumptions", "worker", 100)
        assert {(row["run_id"], *row["node_paths"]) for row in rows} == wanted.keys()
        assert len(rows) == len(wanted)
        for row in rows:
            wanted[row["run_id"], *row["node_paths"]].deliver(row["delivery"], model.now)
        self.claims += sorted((row["run_id"], row["delivery"]) for row in rows)
        return [(run_id, path) for run_id, *paths in sorted(wanted) for path in paths]

    @rule()
    def go_on(self) -> None:
        """A worker enters all paths that were resumed, each at its next attempt."""
        for run_id, path in self.claim_all():
            tried = [number for at, number in self.model.runs[run_id].attempts if at == path]
            self.start_step(run_id, (path, max(tried, default=0) + 1), "action", age=0)

    # What operators and Stripe change -----------------------------------------------------------

    @rule(limit=limits, which=st.sampled_from(["its", "its", "other", "its by hand"]))
    def change_limit(self, limit: int | None, which: str) -> None:
        model = self.model
        if which == "its by hand":
            # Nobody is told; a refresh looks.
            model.tiers[model.plan] = limit
            self.connection.execute(
                "update stepquota.tiers set step_limit = %s where tier = %s", [limit, model.plan]
            )
            self.refresh()
        else:
            others = [tier for tier in model.tiers if tier != model.plan]
            self.set_tier_limit(others[0] if which == "other" else model.plan, limit)

    @rule(by=st.integers(-2, 2))
    def change_limit_to_about_what_is_used(self, by: int) -> None:
        """Where it hurts most."""
        used = self.model.usage.used if self.model.period else 0
        self.set_tier_limit(self.model.plan, max(used + by, 1))

    def set_tier_limit(self, tier: str, limit: int | None) -> None:
        changed = self.model.tiers[tier] != limit
        self.model.tiers[tier] = limit
        if changed:
            self.look_if_paused()
        (answer,) = self.call("set_tier_limit", tier, limit)
        assert answer["changed"] == changed

    @rule(tier=plans)
    def set_plan(self, tier: str) -> None:
        self.model.plan = tier
        self.look_and_resume()
        (answer,) = self.call("set_tenant_plan", TENANT, tier)
        self.check_quota(answer)
        assert answer["used_count"] == self.model.usage.used

    @rule()
    def refresh(self) -> None:
        self.look_and_resume()
        (answer,) = self.call("refresh_workflow_step_quota", TENANT)
        self.check_quota(answer)

    @rule(which=st.sampled_from(["moved", "other"]), carries=st.booleans())
    def set_usage_policy(self, which: str, carries: bool) -> None:
        changed = self.model.carries[which] != carries
        self.model.carries[which] = carries
        if changed:
            self.look_if_paused()
        value = "carry" if carries else "reset"
        (answer,) = self.call("set_policy", f"usage_on_{which}_period", value)
        assert answer["changed"] == changed

    @rule(
        starts=st.integers(-20, 3),
        length=st.sampled_from([None, 1, 10, 25]),
        limit=limits | st.just("absent"),
    )
    def subscribe(self, starts: int, length: int | None, limit: Any) -> None:
        """Another subscription, in the place of the one there is."""
        self.unsubscribe_now()
        self.subscription_count += 1
        begin = self.find_bound(starts)
        end = add_months(begin, 1) if length is None else begin + timedelta(days=length)
        self.model.subscription = Subscription(f"s{self.subscription_count}", begin, end)
        self.model.price_limit = limit
        self.tell_stripe()

    def find_bound(self, days: int) -> datetime:
        """A moment so many days from now, on a day that every month has."""
        moment = (self.model.now + timedelta(days=days)).replace(microsecond=0)
        return moment.replace(day=min(moment.day, 28))

    @precondition(lambda self: self.model.subscription is not None)
    @rule(starts=st.none() | st.integers(-20, 1), length=st.sampled_from([1, 15, 28, 40]))
    def move_bounds(self, starts: int | None, length: int) -> None:
        """Stripe has other bounds for the same subscription: another start too, or the same."""
        assert (subscription := self.model.subscription)
        if starts is not None:
            subscription.start = self.find_bound(starts)
        subscription.end = subscription.start + timedelta(days=length)
        self.tell_stripe()

    @precondition(lambda self: self.model.subscription is not None)
    @rule()
    def renew(self) -> None:
        """The webhook of the renewal: the period after the one that is stored."""
        assert (subscription := self.model.subscription)
        subscription.start = subscription.end.replace(day=min(subscription.end.day, 28))
        subscription.end = add_months(subscription.start, 1)
        self.tell_stripe()

    @precondition(lambda self: self.model.subscription is not None)
    @rule(limit=limits | st.just("absent"), ends=st.booleans())
    def change_subscription(self, limit: Any, ends: bool) -> None:
        """Another limit in the price's metadata; due to end with its period, or no more."""
        assert (subscription := self.model.subscription)
        self.model.price_limit = limit
        subscription.ends_with_period = ends
        self.tell_stripe()

    @precondition(lambda self: self.model.subscription is not None)
    @rule()
    def receive_a_webhook_again(self) -> None:
        """A webhook arrives twice, and an older answer after it."""
        self.tell_stripe(actions={"unchanged"})
        self.tell_stripe(actions={"stale"}, age=timedelta(days=40), limit=9, bound_age=60)

    def tell_stripe(
        self,
        actions: set[str] | None = None,
        age: timedelta = timedelta(),
        bound_age: int = 0,
        **changes: int,
    ) -> None:
        """The mirror gets the subscription, or one that was asked for earlier."""
        assert (subscription := self.model.subscription)
        limit = changes.get("limit", self.model.price_limit)
        metadata: Metadata = {} if limit == "absent" else {"workflow_step_limit": limit or "unlimited"}
        back = timedelta(days=bound_age)
        plan = plan_of(
            TENANT,
            name=subscription.name,
            period=(subscription.start - back, subscription.end - back),
            price_metadata=metadata,
            cancel_at_period_end=subscription.ends_with_period,
        )
        self.look_and_resume()
        rows = self.call("apply_stripe_object", json.dumps(plan), self.model.now - age)
        if actions:
            assert {row["action"] for row in rows} == actions

    @precondition(lambda self: self.model.subscription is not None)
    @rule()
    def unsubscribe(self) -> None:
        self.unsubscribe_now()

    def unsubscribe_now(self) -> None:
        if subscription := self.model.subscription:
            self.model.subscription = None
            self.look_and_resume()
            gone = deleted({"id": f"sub_{TENANT}_{subscription.name}", "object": "subscription"})
            self.call("apply_stripe_object", json.dumps(gone), self.model.now)

    def look_and_resume(self) -> None:
        self.model.look()
        if self.is_paused:
            self.model.resume_all()

    def look_if_paused(self) -> None:
        if self.is_paused:
            self.look_and_resume()

    # Time and transactions ----------------------------------------------------------------------

    @rule(move=st.sampled_from(sorted(MOVES)))
    def pass_time(self, move: str) -> None:
        self.pass_time_to(self.model.now + MOVES[move])

    def pass_time_to(self, moment: datetime) -> None:
        """Never back, and not for ever: months have partitions up to some day."""
        self.model.now = max(self.model.now, min(moment, LAST))

    @rule(by=st.sampled_from([-timedelta(minutes=30), -MILLISECOND, timedelta(0), MILLISECOND]))
    def pass_time_to_the_end_of_the_period(self, by: timedelta) -> None:
        if self.model.period:
            self.pass_time_to(self.model.period[1] + by)

    @precondition(lambda self: not self.is_in_transaction)
    @rule(level=st.sampled_from(["read committed", "repeatable read", "serializable"]))
    def begin(self, level: str) -> None:
        self.connection.execute(f"begin isolation level {level}".encode())
        self.saved = [deepcopy(self.model)]

    @precondition(lambda self: self.is_in_transaction)
    @rule(undoes=st.booleans())
    def end_transaction(self, undoes: bool) -> None:
        if undoes:
            self.restore(self.saved[0])
        self.saved = []
        self.connection.execute("rollback" if undoes else "commit")

    @precondition(lambda self: self.is_in_transaction)
    @rule(undoes=st.booleans())
    def savepoint(self, undoes: bool) -> None:
        """Begin one, or roll back to the last one and release it."""
        if not undoes:
            self.connection.execute(f"savepoint s{len(self.saved)}".encode())
            self.saved.append(deepcopy(self.model))
        elif len(self.saved) > 1:
            self.restore(self.saved.pop())
            name = f"s{len(self.saved)}"
            self.connection.execute(f"rollback to {name}; release {name}".encode())

    @rule()
    def split(self) -> None:
        """As if many had met at the tenant: its units are in many lanes, if they are enough."""
        self.connection.execute(SPLIT)
