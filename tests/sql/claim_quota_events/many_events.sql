-- However many events there are, a claim looks at those after its position, by an index; and a consumer
-- that starts at a moment does not look at all that is before it.
begin;
select plan(9);
select set_clock('2026-04-15T12:00:00Z');
insert into stepquota.quota_events (tenant, event_type, level, created_at)
select 't' || n % 10, case when n % 12000 = 0 then 'plan_changed' else 'policy_changed' end, 'info', timestamptz '2026-04-01Z' + n * interval '30 seconds'
  from generate_series(1, 20000) n;
select is(array[stepquota.order_quota_events(15000), stepquota.order_quota_events(15000), stepquota.order_quota_events(15000)], array[15000, 5000, 0], 'all in order, in bounded steps');
select is((select array[min(position), max(position), count(distinct position)] from stepquota.quota_events), array[1, 20000, 20000]::bigint[], 'each has a place of its own');
select is((select count(*) from stepquota.quota_events e join stepquota.quota_events f on f.position = e.position + 1 where f.event_id < e.event_id), 0::bigint, 'in the order of their numbers');
select is((select max(e.created_at) < timestamptz '2026-04-06Z' - interval '1 day' from stepquota.quota_events e
    where e.position <= stepquota._find_position_before('2026-04-06Z', 20000)), true, 'the start is a day before the moment');
select is((select min(e.created_at) >= timestamptz '2026-04-06Z' - interval '1 day' from stepquota.quota_events e
    where e.position > stepquota._find_position_before('2026-04-06Z', 20000)), true, 'and no more');
select is((select min(c.created_at) from stepquota.claim_quota_events('mailer', 10, p_start_at => '2026-04-06Z') c), timestamptz '2026-04-06Z', 'nothing of before it is handed out');
select is((select string_agg(c.event_id::text, ', ') from (
    select e.position as event_id from stepquota.claim_quota_events('rare', 10, '1 minute', '{plan_changed}', '-infinity') c join stepquota.quota_events e using (event_id)) c), '12000', 'rare events among many');
select is((select position from stepquota.quota_event_consumers where consumer = 'rare'), 20000::bigint, 'the others are passed over for good');
analyze stepquota.quota_events;
create function pg_temp.plan_of(p_query text) returns text language plpgsql as $$
declare v_line text; v_plan text := '';
begin
  for v_line in execute 'explain (costs off) ' || p_query loop v_plan := v_plan || v_line || ' '; end loop;
  return v_plan;
end;
$$;
select ok(pg_temp.plan_of('select event_id from stepquota.quota_events e where e.position is null order by e.event_id limit 100') ~ 'quota_events_without_position'
  and pg_temp.plan_of('select event_id from stepquota.quota_events e where e.position > 100 and e.position <= 1000 order by e.position limit 100') ~ 'quota_events_position', 'both by their index');
delete from stepquota.quota_events;  -- They are made up.
select * from finish();
rollback;
