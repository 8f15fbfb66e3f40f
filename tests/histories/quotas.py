"""Random histories of one tenant, on one connection, beside the model of them."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from psycopg.pq import TransactionStatus

from harness.databases import Database
from histories.model import Grant, Model
from histories.steps import Step, next_steps, step

Row = dict[str, Any]

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

# Small ones are met; large ones are worth several lanes.
LIMITS = [1, 3, 6, 9, 12, 5000, None]

limits = st.sampled_from(LIMITS)
plans = st.sampled_from(["one", "two"])

# All that the model knows, as the tables have it.
STATE = """
select jsonb_build_object(
  'periods', (
    select jsonb_object_agg(extract(epoch from u.period_start),
                            jsonb_build_array(u.used, u.unledgered))
      from (select l.period_start, sum(l.unledgered_count) as unledgered,
                   sum(l.used_count) + coalesce(min(p.carried_count), 0) as used
              from stepquota.workflow_step_usage_lanes l
              left join stepquota.workflow_step_usage_periods p
                on p.tenant = l.tenant and p.period_start = l.period_start
             group by l.period_start) u
     where u.used > 0),
  'runs', (
    select jsonb_object_agg(r.run_id,
                            jsonb_build_array(r.status, r.node_path, r.held_at is not null))
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
  'would_pause', (
    select jsonb_agg(jsonb_build_array(extract(epoch from p.period_start), p.run_id)
                     order by p.period_start, p.run_id)
      from stepquota.workflow_run_shadow_pauses p),
  'is_paused', exists (select from stepquota.paused_tenants))
"""
VIOLATIONS = "select jsonb_agg(to_jsonb(v)) from stepquota.verify_all() v"

GRANTS = """
select jsonb_agg(jsonb_build_array(g.units, g.spent_units, g.closed_at is not null)
                 order by g.granted_at)
  from stepquota.workflow_step_grants g
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
 order by 1
"""

# What machines do all the time is one round trip each, with plans that stay: psycopg forgets what
# it prepared at every ROLLBACK.
FUNCTIONS = """
create function histories.at(p_moment text, p_value text) returns text language plpgsql as $$
begin
  perform set_config('stepquota.now', p_moment, false);
  return p_value;
end;
$$;
comment on function histories.at is
  'Sets the clock and returns the value: as the first argument of a call, before that begins.';
create function histories.at(p_moment text, p_value jsonb) returns jsonb language plpgsql as $$
begin
  perform set_config('stepquota.now', p_moment, false);
  return p_value;
end;
$$;
create function histories.state() returns jsonb language plpgsql as $$
begin
  return ({state});
end;
$$;
"""
CLEAR = """
create schema histories;
create procedure histories.clear() language plpgsql as $$
begin
  {clear}
  update stepquota.policy set enforcement = 'enforce';
  update stepquota.scan_state set inputs_compared_at = null;
  delete from stepquota.tiers where tier in ('one', 'two');
end;
$$;
"""


def prepare(database: Database) -> psycopg.Connection[Any]:
    """A connection for machines, in a database that is ready for all moments of histories."""
    connection = database.connect(autocommit=True)
    connection.execute("update stepquota.policy set allow_test_clock = true")
    connection.execute("select set_config('stepquota.now', %s, false)", [str(BEGINNING)])
    # Compiling takes longer than all the rest.
    connection.execute("set jit = off")
    # Planning takes a third of what is left, and what is planned for differs in nothing.
    connection.execute("set plan_cache_mode = force_generic_plan")
    connection.execute("select stepquota.make_ledger_partitions(24)")
    prepare_clearing(connection)
    connection.execute(FUNCTIONS.format(state=STATE).encode())
    return connection


def prepare_clearing(connection: psycopg.Connection[Any]) -> None:
    """Make ``histories.clear()``, which takes a fraction of the time of a new database."""
    filled = [f"delete from {name};" for (name,) in connection.execute(FILLED_TABLES)]
    connection.execute(CLEAR.format(clear="\n  ".join(filled)).encode())


class Quotas(RuleBasedStateMachine):
    """Units are taken and limits are changed; after each rule, database and model must agree."""

    # Else only at the end: it takes half of the time.
    verifies_each_step = True

    def __init__(self, connection: psycopg.Connection[Any]):
        super().__init__()
        self.connection = connection
        connection.execute("call histories.clear()")
        # Whether the tenant is paused, as of the last look at the database; None after a call.
        self._is_paused: bool | None = None
        self.model = Model(BEGINNING, {"one": 3, "two": 3}, "one")
        # The model as it was when the transaction and each of its savepoints began.
        self.saved: list[Model] = []
        for name, limit in self.model.tiers.items():
            self.call("set_tier_limit", name, limit)
        self.call("set_tenant_plan", TENANT, "one")
        self.model.look()

    # Carrying out -------------------------------------------------------------------------------

    def next_moment(self) -> str:
        """Each call has its moment; a rollback would take back the one before."""
        moment = self.model.now.isoformat()
        self.model.now += MILLISECOND
        return moment

    def call(self, function: str, *arguments: Any, error: str | None = None) -> list[Row]:
        """The rows that a function answers. One that must raise does it in a savepoint."""
        self._is_paused = None
        others = ", %s" * (len(arguments) - 1)
        with self.connection.transaction() if error else nullcontext():
            cursor = self.connection.execute(
                f"select * from stepquota.{function}(histories.at(%s, %s){others})".encode(),
                [self.next_moment(), *arguments],
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
        if self._is_paused is None:
            self._is_paused = self.value("select exists (select from stepquota.paused_tenants)")
        return bool(self._is_paused)

    def restore(self, model: Model) -> None:
        """Undo everything but the time."""
        now = self.model.now
        self.model = deepcopy(model)
        self.model.now = now

    def refused(self, error: str | None, function: str, *arguments: Any) -> bool:
        """Whether a call must end with that error, and does."""
        if error is None:
            return False
        sqlstate = None
        try:
            self.call(function, *arguments, error=error)
        except psycopg.Error as caught:
            sqlstate = caught.sqlstate
        assert sqlstate == error, (function, sqlstate, error)
        return True

    def check_quota(self, answer: Row) -> None:
        """The figures that every answer has."""
        model = self.model
        assert model.period is not None
        assert (answer["period_start"], answer["period_end"]) == model.period[:2]
        assert answer["effective_limit"] == model.limit
        if answer["used_count"] != model.usage.used:
            # With several lanes the figure of a reservation may lag behind.
            assert self.value("select lane_count from stepquota.workflow_step_quotas") > 1
        if model.limit is not None:
            assert answer["remaining"] == max(model.limit - answer["used_count"], 0)

    # Every step ---------------------------------------------------------------------------

    @rule(step=st.runner().flatmap(next_steps))
    def do(self, step: Step) -> None:
        name, arguments = step
        getattr(self, name)(**arguments)

    @invariant()
    def database_and_model_agree(self) -> None:
        """Figures, runs, ledger, queue and outbox are the model's; nothing is violated."""
        model = self.model
        state = self.value("select histories.state()")
        self._is_paused = state["is_paused"]
        if self.verifies_each_step:
            assert self.value(VIOLATIONS) is None
        assert (state["periods"] or {}) == {
            f"{start.timestamp():.6f}": [usage.used, usage.unledgered]
            for start, usage in model.periods.items()
            if usage.used
        }
        assert (state["runs"] or {}) == {
            run_id: [run.status, run.node_path, run.is_held] for run_id, run in model.runs.items()
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
        assert (state["would_pause"] or []) == [
            [start.timestamp(), run_id] for start, run_id in sorted(model.would_pause)
        ]
        for run in model.runs.values():
            assert (run.status == "WAITING") <= (run.wait is not None and not run.goes_on)

    def teardown(self) -> None:
        try:
            if self.connection.info.transaction_status != TransactionStatus.INERROR:
                assert self.value(VIOLATIONS) is None
        finally:
            if self.connection.info.transaction_status != TransactionStatus.IDLE:
                self.connection.execute("rollback")

    # Taking units -------------------------------------------------------------------------------

    @step()
    def reserve_one(self) -> None:
        granted = self.model.reserve(1)
        (answer,) = self.call("reserve_workflow_step", TENANT)
        assert answer["allowed"] == (granted == 1)
        self.check_quota(answer)

    @step(steps=st.sampled_from([1, 2, 3, 64, 1000]), partly=st.booleans())
    def reserve_many(self, steps: int, partly: bool) -> None:
        self.take(steps, partly)

    @step(by=st.integers(-2, 1), partly=st.booleans())
    def reserve_about_all_that_is_left(self, by: int, partly: bool) -> None:
        self.model.look()
        if self.model.limit is not None:
            self.take(max(self.model.limit - self.model.usage.used + by, 1), partly)

    def take(self, steps: int, partly: bool) -> None:
        granted = self.model.reserve(steps, partly)
        (answer,) = self.call("reserve_workflow_steps", TENANT, steps, partly)
        assert (answer["granted"], answer["allowed"]) == (granted, granted > 0)
        self.check_quota(answer)
        assert answer["used_count"] == self.model.usage.used

    @step()
    def resolve(self) -> None:
        self.model.look()
        (answer,) = self.call("resolve_workflow_step_quota", TENANT)
        used, limit = self.model.usage.used, self.model.bound
        assert answer["allowed"] == (limit is None or used < limit)
        assert answer["used_count"] == used
        self.check_quota(answer)
        self.check_grants()

    def check_grants(self) -> None:
        """What is charged to each; only right after the quota was resolved, which does it."""
        assert (self.value(GRANTS) or []) == [
            [grant.units, grant.spent, grant.is_closed] for grant in self.model.grants
        ]

    @initialize(
        limit=st.sampled_from([3, 8, 5000]),
        carries=st.sets(st.sampled_from(["moved", "other"])),
    )
    def begin_with(self, limit: int, carries: set[str]) -> None:
        """The limit may be worth many lanes."""
        for which in self.model.carries:
            self.model.carries[which] = which in carries
            value = "carry" if which in carries else "reset"
            self.call("set_policy", f"usage_on_{which}_period", value)
        self.set_tier_limit("one", limit)
        self.refresh()
        self.split()

    # What operators and Stripe change -----------------------------------------------------------

    @step(limit=limits, which=st.sampled_from(["its", "its", "other", "its by hand"]))
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

    @step(often=2, by=st.integers(-2, 4))
    def change_limit_to_about_what_is_used(self, by: int) -> None:
        """Where it hurts most."""
        used = self.model.usage.used if self.model.period else 0
        self.set_tier_limit(self.model.plan, max(used + by, 1))

    def set_tier_limit(self, tier: str, limit: int | None) -> None:
        changed = self.model.tiers[tier] != limit
        self.model.tiers[tier] = limit
        if changed and self.is_paused:
            self.look_and_resume()
        (answer,) = self.call("set_tier_limit", tier, limit)
        assert answer["changed"] == changed

    @step(tier=plans)
    def set_plan(self, tier: str) -> None:
        self.model.plan = tier
        self.look_and_resume()
        (answer,) = self.call("set_tenant_plan", TENANT, tier)
        self.check_quota(answer)
        assert answer["used_count"] == self.model.usage.used

    @step()
    def refresh(self) -> None:
        self.look_and_resume()
        (answer,) = self.call("refresh_workflow_step_quota", TENANT)
        self.check_quota(answer)
        self.check_grants()

    def lift_limits(self) -> None:
        """No limit from anywhere."""
        self.set_tier_limit(self.model.plan, None)

    @step(
        units=st.sampled_from([1, 2, 5]),
        days=st.sampled_from([None, None, 1, 3, 20, 50]),
    )
    def grant(self, units: int, days: int | None) -> None:
        """A courtesy, or a pack for some days; asked for twice, it is given once."""
        model = self.model
        model.look()
        assert model.period is not None
        expires_at = None if days is None else model.now + timedelta(days=days)
        model.grants.append(Grant(model.now, units, model.period[0], expires_at))
        self.look_and_resume()
        arguments = (TENANT, units, "because", expires_at, f"key {model.now.isoformat()}")
        (first,) = self.call("grant_workflow_steps", *arguments)
        model.look()
        (second,) = self.call("grant_workflow_steps", *arguments)
        assert (first["units"], first["grant_id"]) == (units, second["grant_id"])

    @step(which=st.integers(0, 3))
    def revoke(self, which: int) -> None:
        """One of the latest grants, or one that has ended."""
        if which >= len(self.model.grants):
            return
        self.model.look()
        grant = self.model.grants[-1 - which]
        grant_id = self.value(
            "select grant_id from stepquota.workflow_step_grants order by granted_at desc"
            " limit 1 offset %s",
            which,
        )
        if not grant.is_closed:
            self.model.settle(False, grant)
            self.look_and_resume()
        (answer,) = self.call("revoke_workflow_step_grant", TENANT, grant_id, "because")
        assert (answer["spent_units"], answer["closed_at"] is None) == (grant.spent, False)

    @step(which=st.sampled_from(["own", "policy"]), mode=st.sampled_from(["enforce", "shadow"]))
    def set_mode(self, which: str, mode: str) -> None:
        self.change_mode(which, mode)

    @step(often=2)
    def enforce(self) -> None:
        """Enforced again, whatever is used by then."""
        self.change_mode("own", None)
        self.change_mode("policy", "enforce")

    def change_mode(self, which: str, mode: str | None) -> None:
        changed = self.model.modes[which] != mode
        self.model.modes[which] = mode
        if which == "own":
            self.look_and_resume()
            (answer,) = self.call("set_tenant_enforcement", TENANT, mode)
            self.check_quota(answer)
        else:
            if changed and self.is_paused:
                self.look_and_resume()
            (answer,) = self.call("set_policy", "enforcement", mode)
            assert answer["changed"] == changed

    @step(which=st.sampled_from(["is_held", "is_suspended"]))
    def stop_tenant(self, which: str) -> None:
        """An operator holds the tenant, or suspends it; sometimes again."""
        setattr(self.model, which, True)
        self.call("hold_tenant" if which == "is_held" else "suspend_tenant", TENANT, "because")

    @step(often=2, which=st.sampled_from(["is_held", "is_suspended"]))
    def let_tenant_go(self, which: str) -> None:
        """The end of one of them, if it was."""
        if getattr(self.model, which):
            setattr(self.model, which, False)
            self.look_and_resume()
        self.call("release_tenant" if which == "is_held" else "reinstate_tenant", TENANT, "enough")

    def look_and_resume(self) -> None:
        self.look_and_resume_at(self.model.now, self.is_paused)

    def look_and_resume_at(self, moment: datetime, is_paused: bool) -> None:
        """What a call did at that moment; whether the tenant was paused by then."""
        now, self.model.now = self.model.now, moment
        self.model.look()
        if is_paused:
            self.model.resume_all()
        self.model.now = now

    # Time and transactions ----------------------------------------------------------------------

    @step(move=st.sampled_from(sorted(MOVES)))
    def pass_time(self, move: str) -> None:
        self.pass_time_to(self.model.now + MOVES[move])

    def pass_time_to(self, moment: datetime) -> None:
        """Never back, and not for ever: months have partitions up to some day."""
        self.model.now = max(self.model.now, min(moment, LAST))

    @step(by=st.sampled_from([-timedelta(minutes=30), -MILLISECOND, timedelta(0), MILLISECOND]))
    def pass_time_to_the_end_of_the_period(self, by: timedelta) -> None:
        if self.model.period:
            self.pass_time_to(self.model.period[1] + by)

    @step(
        when=lambda self: not self.is_in_transaction,
        level=st.sampled_from(["read committed", "repeatable read", "serializable"]),
    )
    def begin(self, level: str) -> None:
        self.connection.execute(f"begin isolation level {level}".encode())
        self.saved = [deepcopy(self.model)]

    @step(when=lambda self: self.is_in_transaction, undoes=st.booleans())
    def end_transaction(self, undoes: bool) -> None:
        if undoes:
            self.restore(self.saved[0])
        self.saved = []
        self.connection.execute("rollback" if undoes else "commit")

    @step(when=lambda self: self.is_in_transaction, undoes=st.booleans())
    def savepoint(self, undoes: bool) -> None:
        """Begin one, or roll back to the last one and release it."""
        if not undoes:
            self.connection.execute(f"savepoint s{len(self.saved)}".encode())
            self.saved.append(deepcopy(self.model))
        elif len(self.saved) > 1:
            self.restore(self.saved.pop())
            name = f"s{len(self.saved)}"
            self.connection.execute(f"rollback to {name}; release {name}".encode())

    @step()
    def split(self) -> None:
        """As if many had met at the tenant: its units are in many lanes, if they are enough."""
        self.connection.execute(SPLIT)
