-- Who would have been blocked, since when, how far over.
begin;
select plan(6);
select set_clock('2026-03-15T12:00:00Z');
select (stepquota.set_policy('enforcement', 'shadow')).changed;
select give_limit('a', 1), give_limit('b', 5), give_limit('c', 1);
select use_units('a', 2, 'first'), use_units('a', 1, 'second'), use_units('b', 5);
select is((stepquota.reserve_workflow_steps('c', 3)).granted, 3::bigint, 'a tenant that keeps its own ledger');
select results_eq('select tenant, effective_limit, used_count, over_count, over_limit_since, paused_run_count, is_current, enforcement from stepquota.list_shadow_overruns()',
  $$values ('a', 1::bigint, 3::bigint, 2::bigint, '2026-03-15T12:00:00Z'::timestamptz, 2::bigint, true, 'shadow'), ('c', 1, 3, 2, '2026-03-15T12:00:00Z', 0, true, 'shadow')$$, 'two are over, one is not');
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.reserve_workflow_steps('a', 2)).granted;
select results_eq($$select period_start, period_end, used_count, is_current from stepquota.list_shadow_overruns('a')$$,
  $$values ('2026-04-01Z'::timestamptz, '2026-05-01Z'::timestamptz, 2::bigint, true), ('2026-03-01Z', '2026-04-01Z', 3, false)$$, 'each period, the latest first');
select is_empty($$select * from stepquota.list_shadow_overruns('b')$$, 'nothing of who stayed within its limit');
select is(give_limit('a', 1), 1::bigint, 'a limit that is lowered below what is used');
select is((select count(*) from stepquota.list_shadow_overruns() where tenant = 'b'), 0::bigint, 'is none of these');
select * from finish();
rollback;
