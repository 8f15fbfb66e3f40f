-- Is it right? Every invariant as a query; a row for each violation.

-- Reads everything, so not for every minute. Takes no locks.
create or replace function stepquota.verify_all()
returns table (invariant text, tenant text, object text, detail text)
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $verify_all$
  -- I1: what the lanes own together is the limit, or what is used where a limit was lowered below it.
  select 'I1 exact', q.tenant, q.period_start::text,
         format('limit %s (%s), carried %s, used %s, but the lanes own %s', coalesce(q.effective_limit::text, 'unlimited'),
           q.enforcement, q.carried_count, l.used_count, coalesce(l.allowance::text, 'unlimited'))
    from stepquota.workflow_step_quotas q
    join (select u.tenant, u.period_start, sum(u.used_count) as used_count,
                 case when bool_and(u.allowance is not null) then sum(u.allowance) end as allowance
            from stepquota.workflow_step_usage_lanes u
           group by u.tenant, u.period_start) l
      on l.tenant = q.tenant and l.period_start = q.period_start
   where l.allowance is distinct from
           case when q.effective_limit is not null and q.enforcement = 'enforce'
                then greatest(q.effective_limit - q.carried_count, l.used_count, 0) end
  union all
  select 'I1 exact', q.tenant, q.period_start::text, 'the current period has no lane'
    from stepquota.workflow_step_quotas q
   where not exists (
     select 1 from stepquota.workflow_step_usage_lanes u
      where u.tenant = q.tenant and u.period_start = q.period_start)
  union all
  -- I1: the stored quota contains what the grants gave.
  select 'I1 exact', q.tenant, q.period_start::text,
         format('%s units are granted, but the quota contains %s', c.granted_units, q.granted_units)
    from stepquota.workflow_step_quotas q
   cross join lateral stepquota._count_granted_units(q.tenant, q.period_start, q.refreshed_at) c
   where c.granted_units <> q.granted_units
  union all
  -- I1: more used than the limit ever was in the period.
  select 'I1 exact', l.tenant, l.period_start::text,
         format('lane %s used %s of its %s, and the limit was not lowered', l.lane, l.used_count, l.allowance)
    from stepquota.workflow_step_usage_lanes l
   where l.used_count > l.allowance
     and not exists (
       select 1 from stepquota.quota_events e
        where e.tenant = l.tenant and e.event_type = 'limit_changed'
          and (e.details ->> 'period_start')::timestamptz = l.period_start
          and (e.details ->> 'to')::bigint < coalesce((e.details ->> 'from')::bigint, 9223372036854775807))
     -- The events of older periods may have been purged.
     and not exists (
       select 1 from stepquota.purge_state s, stepquota.workflow_step_usage_periods p
        where p.tenant = l.tenant and p.period_start = l.period_start and p.created_at <= s.events_purged_until)
  union all
  -- What CHECKs on the table would say; there they cost each reservation a quarter of its time.
  select 'I1 exact', l.tenant, l.period_start::text,
         format('lane %s says used %s, of them %s without a ledger row', l.lane, l.used_count, l.unledgered_count)
    from stepquota.workflow_step_usage_lanes l
   where l.lane < 0 or l.used_count < 0 or l.unledgered_count not between 0 and l.used_count
  union all
  select 'I1 exact', l.tenant, l.period_start::text, format('lane %s is there %s times', l.lane, count(*))
    from stepquota.workflow_step_usage_lanes l
   group by l.tenant, l.period_start, l.lane
  having count(*) > 1
  union all
  -- I3: units counted with a ledger row, and ledger rows with those that were purged, are the same number
  -- in every period.
  select 'I3 conserved', coalesce(c.tenant, s.tenant), coalesce(c.period_start, s.period_start)::text,
         format('counter %s, ledger %s', coalesce(c.ledgered_count, 0), coalesce(s.step_count, 0))
    from (select u.tenant, u.period_start, sum(u.used_count - u.unledgered_count) as ledgered_count
            from stepquota.workflow_step_usage_lanes u
           group by u.tenant, u.period_start) c
    full join (
      select t.tenant, t.period_start, sum(t.step_count) as step_count
        from (select h.tenant, h.period_start, h.step_count from stepquota._host_count_all_steps() h
              union all
              select p.tenant, p.period_start, p.purged_step_count
                from stepquota.workflow_step_usage_periods p
               where p.purged_step_count > 0) t
       group by t.tenant, t.period_start) s on s.tenant = c.tenant and s.period_start = c.period_start
   where coalesce(c.ledgered_count, 0) <> coalesce(s.step_count, 0)
  union all
  select v.invariant, v.tenant, v.object, v.detail from stepquota._host_list_violations() v;
$verify_all$;

comment on function stepquota.verify_all() is
  'Checks the invariants: I1 exact, I3 counter = ledger, I5 no run is lost. A row for each violation: invariant, tenant, object, detail; no row when all holds. Reads all usage and runs.';
