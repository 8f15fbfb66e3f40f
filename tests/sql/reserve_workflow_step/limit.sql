-- Limit 2: allowed, allowed, denied, used 2; unlimited: all; a rollback of the caller gives units back.
begin;
select plan(14);
select set_clock('2026-04-15Z');
create function pg_temp.reserve(p_tenant text) returns text language sql as $$
  select format('%s %s/%s left %s', r.allowed, r.used_count, coalesce(r.effective_limit::text, 'unlimited'), coalesce(r.remaining::text, 'unlimited'))
    from stepquota.reserve_workflow_step(p_tenant) r;
$$;

select give_limit('acme', 2);
select is(pg_temp.reserve('acme'), 't 1/2 left 1', 'allowed');
select is(pg_temp.reserve('acme'), 't 2/2 left 0', 'allowed');
select is(pg_temp.reserve('acme'), 'f 2/2 left 0', 'denied');
select is(pg_temp.reserve('acme'), 'f 2/2 left 0', 'and again');
select is(used('acme'), 2::bigint, 'used 2');
select is((select array[r.period_source, r.limit_source, r.tier, r.granted_units::text] from stepquota.reserve_workflow_step('acme') r),
  array['fallback_calendar', 'tier_default', 'tier of acme', '0'], 'a denial has all its columns');
select is((select count(*) from stepquota.workflow_run_steps), 0::bigint, 'the ledger is the caller''s own');
select is((select unledgered_count from stepquota.workflow_step_usage_lanes where tenant = 'acme'), 2::bigint, 'which the counter remembers');

select give_limit('rich', null);
select is(array_agg(pg_temp.reserve('rich') order by n), array['t 1/unlimited left unlimited', 't 2/unlimited left unlimited', 't 3/unlimited left unlimited'],
  'unlimited is counted too, and never denied') from generate_series(1, 3) n;

select give_limit('back', 1);
savepoint s;
select is(pg_temp.reserve('back'), 't 1/1 left 0', 'a unit is taken');
rollback to s;
select is(pg_temp.reserve('back'), 't 1/1 left 0', 'and is free again when the caller rolls back');

select set_clock('2026-05-01Z');
select is(pg_temp.reserve('acme'), 't 1/2 left 1', 'a new period starts at 0');
select set_clock('2026-04-30T23:59:59Z');
select is(pg_temp.reserve('acme'), 'f 2/2 left 0', 'and takes nothing of the old one');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
