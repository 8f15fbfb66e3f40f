-- Is it right? Every invariant as a query; a row for each violation.

-- Reads everything, so not for every minute: a table at a time, each once, whatever is in it. One snapshot
-- for all of it, so that clients may go on meanwhile. Takes no locks.
create or replace function stepquota.verify_all()
returns table (invariant text, tenant text, object text, detail text, violation text)
language plpgsql
-- Stable: all its statements see what its caller's statement sees.
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $verify_all$
#variable_conflict use_column
begin
  perform stepquota._check_unbound();
  -- Quotas and lanes ---------------------------------------------------------------------------------
  --
  -- What the lanes own together is the limit, or what is used where a limit was lowered below it. Their
  -- numbers are 0 and up.
  return query
    select 'I1 exact', q.tenant, q.period_start::text,
           format('limit %s (%s), carried %s, used %s, but the lanes own %s', coalesce(q.effective_limit::text, 'unlimited'),
             q.enforcement, q.carried_count, l.used_count, coalesce(l.allowance::text, 'unlimited')), 'lanes_off_limit'
      from stepquota.workflow_step_quotas q
      join (select u.tenant, u.period_start, sum(u.used_count) as used_count,
                   case when bool_and(u.allowance is not null) then sum(u.allowance) end as allowance
              from stepquota.workflow_step_usage_lanes u
             group by u.tenant, u.period_start) l
        on l.tenant = q.tenant and l.period_start = q.period_start
     where l.allowance is distinct from
             case when q.effective_limit is not null and q.enforcement = 'enforce'
                  then greatest(q.effective_limit - q.carried_count, l.used_count, 0) end;
  return query
    select 'I1 exact', q.tenant, q.period_start::text,
           format('the quota says %s lanes, and there are %s, the last one %s', q.lane_count, l.lane_count, l.last_lane),
           'lanes_not_numbered'
      from stepquota.workflow_step_quotas q
      join (select u.tenant, u.period_start, count(distinct u.lane) as lane_count, max(u.lane) as last_lane
              from stepquota.workflow_step_usage_lanes u
             group by u.tenant, u.period_start) l
        on l.tenant = q.tenant and l.period_start = q.period_start
     where q.lane_count <> l.lane_count or l.last_lane <> l.lane_count - 1;
  return query
    select 'I1 exact', q.tenant, q.period_start::text, 'the current period has no lane', 'period_without_lane'
      from stepquota.workflow_step_quotas q
     where not exists (
       select 1 from stepquota.workflow_step_usage_lanes u
        where u.tenant = q.tenant and u.period_start = q.period_start);
  -- What CHECKs on the table would say; there they cost each reservation a quarter of its time.
  return query
    select 'I1 exact', l.tenant, l.period_start::text,
           format('lane %s says used %s, of them %s without a ledger row', l.lane, l.used_count, l.unledgered_count),
           'lane_counts_nonsense'
      from stepquota.workflow_step_usage_lanes l
     where l.lane < 0 or l.used_count < 0 or l.unledgered_count not between 0 and l.used_count;
  return query
    select 'I1 exact', l.tenant, l.period_start::text, format('lane %s is there %s times', l.lane, count(*)), 'lane_twice'
      from stepquota.workflow_step_usage_lanes l
     group by l.tenant, l.period_start, l.lane
    having count(*) > 1;
  -- More used than the limit ever was in the period. The events of older periods may have been purged.
  return query
    select 'I1 exact', l.tenant, l.period_start::text,
           format('lane %s used %s of its %s, and the limit was not lowered', l.lane, l.used_count, l.allowance),
           'lane_over_limit'
      from stepquota.workflow_step_usage_lanes l
     where l.used_count > l.allowance
       and not exists (
         select 1 from stepquota.quota_events e
          where e.tenant = l.tenant and e.event_type = 'limit_changed'
            and (e.details ->> 'period_start')::timestamptz = l.period_start
            and (e.details ->> 'to')::bigint < coalesce((e.details ->> 'from')::bigint, 9223372036854775807))
       and not exists (
         select 1 from stepquota.purge_state s, stepquota.workflow_step_usage_periods p
          where p.tenant = l.tenant and p.period_start = l.period_start and p.created_at <= s.events_purged_until);
  -- The mark by which a refusal reads one row alone.
  return query
    select 'I1 exact', q.tenant, q.period_start::text,
           format('it is marked as exhausted at %s, but %s of %s are used', q.exhausted_at_count,
             q.carried_count + l.used_count, coalesce(q.effective_limit::text, 'unlimited')), 'exhausted_with_units_left'
      from stepquota.workflow_step_quotas q
      join (select u.tenant, u.period_start, sum(u.used_count) as used_count
              from stepquota.workflow_step_usage_lanes u
             group by u.tenant, u.period_start) l
        on l.tenant = q.tenant and l.period_start = q.period_start
     where q.exhausted_at_count is not null
       and (q.effective_limit is null or q.enforcement = 'shadow' or q.carried_count + l.used_count < q.effective_limit);

  -- Grants -------------------------------------------------------------------------------------------
  return query
    select 'I1 exact', q.tenant, q.period_start::text,
           format('%s units are granted, but the quota contains %s', c.granted_units, q.granted_units), 'grants_off_limit'
      from stepquota.workflow_step_quotas q
     cross join lateral stepquota._count_granted_units(q.tenant, q.period_start, q.refreshed_at) c
     where c.granted_units <> q.granted_units;
  return query
    select 'I1 exact', p.tenant, p.period_start::text,
           format('%s units are charged to grants here, but only %s to all grants', p.spent_grant_units,
             coalesce(g.spent_units, 0)), 'grants_charged_too_little'
      from stepquota.workflow_step_usage_periods p
      left join (select o.tenant, sum(o.spent_units) as spent_units
                   from stepquota.workflow_step_grants o
                  group by o.tenant) g on g.tenant = p.tenant
     where p.spent_grant_units > coalesce(g.spent_units, 0) or p.spent_grant_units < 0;
  return query
    select 'I1 exact', g.tenant, g.grant_id::text,
           format('it ends with the period of %s, which is not the present one, and is open', g.period_start),
           'grant_left_open'
      from stepquota.workflow_step_grants g
      join stepquota.workflow_step_quotas q on q.tenant = g.tenant
     where g.closed_at is null and g.expires_at is null and g.period_start <> q.period_start;

  -- Periods ------------------------------------------------------------------------------------------
  return query
    select 'I7 usage survives', q.tenant, q.period_start::text,
           format('until %s, limit %s, carried %s; the period''s row says %s, %s, %s', q.period_end,
             coalesce(q.effective_limit::text, 'unlimited'), q.carried_count, coalesce(p.period_end::text, 'nothing'),
             coalesce(p.effective_limit::text, 'unlimited'), p.carried_count), 'period_off_quota'
      from stepquota.workflow_step_quotas q
      left join stepquota.workflow_step_usage_periods p on p.tenant = q.tenant and p.period_start = q.period_start
     where p.tenant is null
        or (p.period_end, p.carried_count) <> (q.period_end, q.carried_count)
        or p.effective_limit is distinct from q.effective_limit;
  return query
    select 'I7 usage survives', p.tenant, p.period_start::text,
           format('carried %s, imported %s, purged %s', p.carried_count, p.imported_count, p.purged_step_count),
           'period_counts_nonsense'
      from stepquota.workflow_step_usage_periods p
     where p.carried_count < 0 or p.imported_count < 0 or p.purged_step_count < 0;
  -- Of the next period a lane is made ahead, and units may be taken there before the period is stored.
  return query
    select 'I7 usage survives', l.tenant, l.period_start::text, format('lane %s used %s, of no known period', l.lane, l.used_count),
           'usage_without_period'
      from stepquota.workflow_step_usage_lanes l
      left join stepquota.workflow_step_quotas q on q.tenant = l.tenant
     where l.used_count > 0 and l.period_start is distinct from q.period_end
       and not exists (
         select 1 from stepquota.workflow_step_usage_periods p
          where p.tenant = l.tenant and p.period_start = l.period_start);

  -- The ledger ---------------------------------------------------------------------------------------
  --
  -- Units counted with a ledger row, and ledger rows with those that were purged, are the same number in
  -- every period.
  return query
    select 'I3 conserved', coalesce(c.tenant, s.tenant), coalesce(c.period_start, s.period_start)::text,
           format('counter %s, ledger %s', coalesce(c.ledgered_count, 0), coalesce(s.step_count, 0)), 'counter_off_ledger'
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
     where coalesce(c.ledgered_count, 0) <> coalesce(s.step_count, 0);
  -- Units of open batches are counted without a ledger row.
  return query
    select 'I3 conserved', b.tenant, b.period_start::text,
           format('open batches have %s units, but %s are counted without a ledger row', b.granted_count,
             coalesce(l.unledgered_count, 0)), 'batch_not_counted'
      from (select o.tenant, o.period_start, sum(o.granted_count) as granted_count
              from stepquota.workflow_step_batches o
             where o.closed_at is null
             group by o.tenant, o.period_start) b
      left join (select u.tenant, u.period_start, sum(u.unledgered_count) as unledgered_count
                   from stepquota.workflow_step_usage_lanes u
                  group by u.tenant, u.period_start) l on l.tenant = b.tenant and l.period_start = b.period_start
     where b.granted_count > coalesce(l.unledgered_count, 0);

  -- Runs, waits and resumptions ----------------------------------------------------------------------
  return query
    select h.invariant, h.tenant, h.object, h.detail, h.violation from stepquota._host_list_violations() h;
  -- A newer delivery has the greater number, or a worker that lost its lease could act.
  return query
    select 'I5 no lost run', p.tenant, p.resumption_id::text,
           format('delivery %s of %s', coalesce(p.delivery::text, 'none'), p.deliveries), 'deliveries_out_of_order'
      from stepquota.workflow_run_resumptions p
     where p.delivery is distinct from p.deliveries[cardinality(p.deliveries)]
        or exists (
          select 1 from generate_series(2, cardinality(p.deliveries)) as n (place)
           where p.deliveries[n.place] <= p.deliveries[n.place - 1]);
  return query
    select 'I5 no lost run', null::text, 'workflow_run_deliveries',
           format('the next delivery is number %s, but %s was given out already', n.next_number, p.newest), 'delivery_given_twice'
      from (select max(r.delivery) as newest from stepquota.workflow_run_resumptions r) p
     cross join (select s.last_value + s.is_called::integer as next_number from stepquota.workflow_run_deliveries s) n
     where p.newest >= n.next_number;

  -- Events -------------------------------------------------------------------------------------------
  return query
    select 'events', null::text, c.consumer,
           format('it is at position %s, but the last one is %s', c.position, o.last_position), 'consumer_ahead'
      from stepquota.quota_event_consumers c
     cross join stepquota.quota_event_order o
     where c.position > o.last_position;
  return query
    select 'events', null::text, l.consumer, format('event %s is claimed by it, which is %s', l.event_id,
             coalesce('at position ' || c.position, 'unknown')), 'claim_off_consumer'
      from stepquota.quota_event_claims l
      left join stepquota.quota_event_consumers c on c.consumer = l.consumer
     where c.consumer is null or l.position > c.position;
  return query
    select 'events', min(e.tenant), e.position::text, format('%s events have this position; the last one given is %s',
             count(*), min(o.last_position)), 'position_not_given_once'
      from stepquota.quota_events e
     cross join stepquota.quota_event_order o
     where e.position > 0
     group by e.position
    having count(*) > 1 or e.position > min(o.last_position);

  -- The Stripe mirror --------------------------------------------------------------------------------
  return query
    select 'mirror', null::text, i.id, format('the item''s subscription %s is %s', i.subscription_id,
             case when s.id is null then 'unknown' else 'gone' end), 'item_off_subscription'
      from stepquota.stripe_subscription_items i
      left join stepquota.stripe_subscriptions s on s.id = i.subscription_id
     where i.deleted_at is null and (s.id is null or s.deleted_at is not null);
end;
$verify_all$;

comment on function stepquota.verify_all() is
  'Checks what must always hold: I1 exact, I3 counter = ledger, I4 idempotent, I5 no run is lost, I7 usage survives edits, events, and the Stripe mirror. A row for each violation: invariant, tenant (NULL: nobody''s in particular), object, detail, and violation, the name of the check; no row when all holds. Reads all usage, runs and steps, as of one moment.';
