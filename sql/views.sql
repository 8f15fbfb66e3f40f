-- Views for people at psql: who has used what, what is paused and why, who used it up, what happened, how
-- the sync is.
--
-- All are security_invoker: they read with the rights of who asks, so that row-level security of the
-- tables holds for him as if he read the tables. What a view needs and its reader may not call is behind
-- the four functions here, which are stable: a view that calls a volatile function computes all rows
-- before it sorts and limits them. They read host tables, so an application with tables of its own
-- makes this file its own, as it does host.sql.
--
-- The fence "offset 0" keeps an expression from being repeated in every column that uses it.

-- Takes no locks.
create or replace function stepquota.clock()
returns timestamptz
language plpgsql
stable
-- Definer: callers have no right to the table that may allow a test clock.
security definer
set search_path = pg_catalog, pg_temp
as $clock$
begin
  return stepquota._now();
end;
$clock$;

-- Takes no locks. A function, since the policy row is not for every reader of a view.
create or replace function stepquota.current_epoch()
returns bigint
language plpgsql
stable
-- Definer: callers need no right to the policy row.
security definer
set search_path = pg_catalog, pg_temp
as $current_epoch$
begin
  return (select p.epoch from stepquota.policy p);
end;
$current_epoch$;

-- The stored quota while it holds, else the quota as its inputs say now, stored nowhere.
create or replace function stepquota._peek_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
stable
as $_peek_quota$
declare
  v_quota stepquota.workflow_step_quotas;
begin
  select q.* into v_quota
    from stepquota.workflow_step_quotas q
    join stepquota.policy p on p.epoch = q.epoch
   where q.tenant = p_tenant and p_now >= q.period_start and p_now < q.valid_until;
  if not found then
    v_quota := (stepquota._resolve_quota(p_tenant, p_now)).quota;
    v_quota.carried_count := coalesce((
      select u.carried_count from stepquota.workflow_step_usage_periods u
       where u.tenant = p_tenant and u.period_start = v_quota.period_start), 0);
  end if;
  return v_quota;
end;
$_peek_quota$;

-- Takes no locks. SQLSTATEs: WQ001, WQ019.
create or replace function stepquota.peek_workflow_step_quota(p_tenant text)
returns stepquota.workflow_step_quotas
language plpgsql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $peek_workflow_step_quota$
begin
  perform stepquota._check_tenant(p_tenant);
  return stepquota._peek_quota(p_tenant, stepquota._now());
end;
$peek_workflow_step_quota$;

-- Takes no locks. SQLSTATEs: WQ001, WQ019.
create or replace function stepquota.peek_workflow_step_exhaustion(p_tenant text)
returns timestamptz
language plpgsql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $peek_workflow_step_exhaustion$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_tenant(p_tenant);
  return (select f.exhausts_at from stepquota._forecast_usage(stepquota._peek_quota(p_tenant, v_now), v_now) f);
end;
$peek_workflow_step_exhaustion$;

create or replace view stepquota.tenant_usage with (security_invoker = true) as
select s.tenant,
       u.used_count,
       (q.quota).effective_limit,
       case when (q.quota).effective_limit is not null
            then greatest((q.quota).effective_limit - u.used_count, 0) end as remaining,
       case when (q.quota).effective_limit = 0 then 100.0
            else round(100.0 * u.used_count / (q.quota).effective_limit, 1) end as percent,
       (q.quota).period_start,
       (q.quota).period_end as resets_at,
       (q.quota).period_source,
       (q.quota).limit_source,
       t.plan,
       (q.quota).tier,
       (q.quota).granted_units,
       (select count(*) from stepquota.workflow_run_waits w
         where w.tenant = s.tenant and w.wait_type = 'quota' and w.status = 'WAITING') as paused_runs,
       (select min(w.created_at) from stepquota.workflow_run_waits w
         where w.tenant = s.tenant and w.wait_type = 'quota' and w.status = 'WAITING') as oldest_pause,
       stepquota.peek_workflow_step_exhaustion(s.tenant) as exhausts_at,
       (q.quota).enforcement,
       t.suspended_at,
       t.held_at,
       t.held_by,
       t.held_because,
       (q.quota).refreshed_at
  from stepquota.workflow_step_quotas s
  left join stepquota.tenants t on t.tenant = s.tenant
 cross join lateral (
   select case when s.epoch = (select stepquota.current_epoch()) and s.valid_until > (select stepquota.clock()) then s
               else stepquota.peek_workflow_step_quota(s.tenant) end as quota
   offset 0) q
 cross join lateral (
   select coalesce(sum(l.used_count), 0)::bigint + (q.quota).carried_count as used_count
     from stepquota.workflow_step_usage_lanes l
    where l.tenant = s.tenant and l.period_start = (q.quota).period_start) u;

create or replace view stepquota.paused_runs with (security_invoker = true) as
select w.tenant,
       w.run_id,
       r.workflow,
       r.runtime,
       w.node_paths,
       x.reasons[1] as reason,
       w.created_at as paused_since,
       array_to_string(array_remove(array[
         case when u.suspended_at is not null then 'reinstate_tenant' end,
         case when u.held_at is not null then format('release_tenant (%s: %s)', coalesce(u.held_by, 'somebody'),
           coalesce(u.held_because, 'no reason given')) end,
         case when r.held_at is not null then format('release_workflow_run (%s: %s)', r.held_by, r.held_because) end,
         case when 'quota' <> all (x.reasons) then null
              when u.remaining = 0 and u.enforcement <> 'shadow' then 'a higher limit, a grant, or the next period'
              else 'the next scan' end], null), ', and ') as unblocked_by,
       case when x.reasons <> array['quota'] then null
            when u.remaining = 0 and u.enforcement <> 'shadow' then u.resets_at
            else (select greatest(d.due_at, stepquota.clock()) from stepquota.paused_tenants d
                   where d.tenant = w.tenant) end as unblocks_at,
       u.used_count,
       u.effective_limit,
       x.reasons,
       w.queued_at,
       w.wait_id
  from stepquota.workflow_run_waits w
  join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
  join stepquota.tenant_usage u on u.tenant = w.tenant
 cross join lateral (
   select array_remove(array[
            case when u.suspended_at is not null then 'tenant_suspended' end,
            case when u.held_at is not null or r.held_at is not null then 'operator_hold' end,
            case when u.remaining = 0 and u.enforcement <> 'shadow'
                   or u.suspended_at is null and u.held_at is null and r.held_at is null then 'quota' end],
            null) as reasons) x
 where w.wait_type = 'quota' and w.status = 'WAITING';

create or replace view stepquota.top_workflows with (security_invoker = true) as
select g.tenant,
       g.workflow,
       g.steps,
       round(100.0 * g.steps / sum(g.steps) over (partition by g.tenant), 1) as percent,
       g.runs,
       g.retries,
       g.last_step_at,
       g.period_start
  from (select s.tenant, r.workflow, u.period_start, count(*) as steps, count(distinct s.run_id) as runs,
               count(*) filter (where s.attempt > 1) as retries, max(s.started_at) as last_step_at
          from stepquota.tenant_usage u
          join stepquota.workflow_run_steps s on s.tenant = u.tenant and s.period_start = u.period_start
          left join stepquota.workflow_runs r on r.tenant = s.tenant and r.run_id = s.run_id
         group by s.tenant, r.workflow, u.period_start) g
 order by g.steps desc, g.tenant, g.workflow;

create or replace view stepquota.recent_events with (security_invoker = true) as
select e.event_id,
       e.created_at,
       e.level,
       e.event_type,
       e.tenant,
       e.run_id,
       e.details,
       y.description as meaning
  from stepquota.quota_events e
  left join stepquota.quota_event_types y on y.event_type = e.event_type
 order by e.created_at desc, e.event_id desc;

create or replace view stepquota.sync_health with (security_invoker = true) as
select s.state,
       s.detail,
       s.hint,
       h.account,
       h.livemode,
       h.pending_events,
       h.oldest_pending_at,
       h.dead_events,
       h.last_webhook_at,
       h.last_worked_off_at,
       h.last_catch_up_at,
       h.last_full_sync_at,
       h.needs_full_sync
  from stepquota.stripe_sync_health() h
 cross join stepquota.status() s
 where s.item = 'stripe sync';

comment on function stepquota.clock() is
  'For views: the moment that decides now, the database''s clock, or the setting stepquota.now where policy.allow_test_clock is on.';
comment on function stepquota.current_epoch() is
  'For views: a stored quota of another epoch is stale.';
comment on function stepquota._peek_quota(text, timestamptz) is
  'The stored quota while it holds, else as its inputs say now; nothing is stored.';
comment on function stepquota.peek_workflow_step_quota(text) is
  'For views: the tenant''s quota of now, storing nothing; resolve_workflow_step_quota is for all else. WQ001 for a tenant that cannot be one.';
comment on function stepquota.peek_workflow_step_exhaustion(text) is
  'For the view tenant_usage: when the quota is used up at the present pace, as forecast_workflow_step_usage, storing nothing. WQ001 for a tenant that cannot be one.';

comment on view stepquota.tenant_usage is
  'How much each tenant has used and what it has left. Ask for one tenant, or the fullest: order by percent desc nulls last limit 20.';
comment on column stepquota.tenant_usage.tenant is 'The tenant; one that never asked for a step has no row.';
comment on column stepquota.tenant_usage.used_count is 'Steps used in the period.';
comment on column stepquota.tenant_usage.effective_limit is 'The limit with grants; NULL: unlimited.';
comment on column stepquota.tenant_usage.remaining is 'Steps left; NULL: unlimited.';
comment on column stepquota.tenant_usage.percent is 'Used, in percent of the limit; NULL: unlimited.';
comment on column stepquota.tenant_usage.period_start is 'Start of the period, included.';
comment on column stepquota.tenant_usage.resets_at is 'End of the period, when counting begins anew.';
comment on column stepquota.tenant_usage.period_source is 'Where the period is from.';
comment on column stepquota.tenant_usage.limit_source is 'Where the limit is from.';
comment on column stepquota.tenant_usage.plan is 'What the tenant''s plan is set to; NULL: nothing.';
comment on column stepquota.tenant_usage.tier is 'The tier that the plan comes to.';
comment on column stepquota.tenant_usage.granted_units is 'Steps granted, part of the limit.';
comment on column stepquota.tenant_usage.paused_runs is 'Runs that are paused now, by quota or by a hold.';
comment on column stepquota.tenant_usage.oldest_pause is 'Since when the first of them is.';
comment on column stepquota.tenant_usage.exhausts_at is
  'Forecast: when it is used up at the present pace; NULL: it lasts, or too little is known.';
comment on column stepquota.tenant_usage.enforcement is 'enforce, or shadow: never paused.';
comment on column stepquota.tenant_usage.suspended_at is 'Since when it is suspended; NULL: it is not.';
comment on column stepquota.tenant_usage.held_at is 'Since when it is held; NULL: it is not.';
comment on column stepquota.tenant_usage.held_by is 'Who holds it.';
comment on column stepquota.tenant_usage.held_because is 'Why it is held.';
comment on column stepquota.tenant_usage.refreshed_at is
  'When its inputs were last looked at. Rows edited by hand since then are not in these figures yet.';

comment on view stepquota.paused_runs is
  'Runs that are paused, why, and what brings them back. Name a tenant: where tenant = ''acme'' order by paused_since desc limit 20.';
comment on column stepquota.paused_runs.tenant is 'The tenant.';
comment on column stepquota.paused_runs.run_id is 'The run.';
comment on column stepquota.paused_runs.workflow is 'Its workflow.';
comment on column stepquota.paused_runs.runtime is 'The program family that will go on with it.';
comment on column stepquota.paused_runs.node_paths is 'Where it stands: the steps that were refused.';
comment on column stepquota.paused_runs.reason is 'The first of reasons.';
comment on column stepquota.paused_runs.paused_since is 'Since when.';
comment on column stepquota.paused_runs.unblocked_by is 'What has to happen, or which function to call, for each reason.';
comment on column stepquota.paused_runs.unblocks_at is 'When it goes on by itself; NULL: somebody must act.';
comment on column stepquota.paused_runs.used_count is 'Steps that its tenant has used in the period.';
comment on column stepquota.paused_runs.effective_limit is 'The tenant''s limit; NULL: unlimited.';
comment on column stepquota.paused_runs.reasons is 'tenant_suspended, operator_hold, quota: those that are left.';
comment on column stepquota.paused_runs.queued_at is 'Its place among the tenant''s paused runs: the earliest goes first.';
comment on column stepquota.paused_runs.wait_id is 'The wait.';

comment on view stepquota.top_workflows is
  'Who used it up: steps of the present period by workflow, the most first. Reads the ledger, so name a tenant: where tenant = ''acme''.';
comment on column stepquota.top_workflows.tenant is 'The tenant.';
comment on column stepquota.top_workflows.workflow is 'The workflow; NULL: runs without a name.';
comment on column stepquota.top_workflows.steps is 'Steps counted in the period.';
comment on column stepquota.top_workflows.percent is 'Its share of the tenant''s steps in the ledger, in percent.';
comment on column stepquota.top_workflows.runs is 'Runs that had a step in the period.';
comment on column stepquota.top_workflows.retries is 'How many of the steps were second or later attempts.';
comment on column stepquota.top_workflows.last_step_at is 'When the last of them started.';
comment on column stepquota.top_workflows.period_start is 'The period.';

comment on view stepquota.recent_events is
  'What happened, the newest first: limit 20, or where tenant = ''acme'' limit 20.';
comment on column stepquota.recent_events.event_id is 'Number of the event.';
comment on column stepquota.recent_events.created_at is 'When.';
comment on column stepquota.recent_events.level is 'info, warning or error.';
comment on column stepquota.recent_events.event_type is 'What happened.';
comment on column stepquota.recent_events.tenant is 'The tenant; empty for what concerns all.';
comment on column stepquota.recent_events.run_id is 'The run, where it is about one.';
comment on column stepquota.recent_events.details is 'The circumstances, by type.';
comment on column stepquota.recent_events.meaning is 'The type in a sentence.';

comment on view stepquota.sync_health is 'How the Stripe sync is, in one row: state and what to do, then the figures.';
comment on column stepquota.sync_health.state is 'ok, info (not set up), warn or error; as status() says.';
comment on column stepquota.sync_health.detail is 'The same in words.';
comment on column stepquota.sync_health.hint is 'What to do; NULL: nothing.';
comment on column stepquota.sync_health.account is 'The Stripe account that the mirror is of.';
comment on column stepquota.sync_health.livemode is 'Whether it is Stripe''s live mode; NULL: not set up.';
comment on column stepquota.sync_health.pending_events is 'Events to be worked off.';
comment on column stepquota.sync_health.oldest_pending_at is 'When the first of them arrived.';
comment on column stepquota.sync_health.dead_events is 'Events that were given up.';
comment on column stepquota.sync_health.last_webhook_at is 'When Stripe last delivered one.';
comment on column stepquota.sync_health.last_worked_off_at is 'When one was last worked off.';
comment on column stepquota.sync_health.last_catch_up_at is 'When events were last listed.';
comment on column stepquota.sync_health.last_full_sync_at is 'When everything was last listed.';
comment on column stepquota.sync_health.needs_full_sync is 'Whether a full sync is needed to have everything.';
