-- Percents of the limit, each recorded when it is reached, by whom it is reached; whatever takes the units.
begin;
select plan(30);
select set_clock('2026-04-15T12:00:00Z');
create function pg_temp.reached(p_tenant text) returns text language sql as $$
  select coalesce(string_agg(concat_ws(' at ', e.details ->> 'percent', e.details ->> 'used_count'), ', ' order by e.event_id), '')
    from stepquota.quota_events e where e.tenant = p_tenant and e.event_type = 'quota_threshold_reached';
$$;
create function pg_temp.take(p_tenant text, p_units integer) returns bigint language sql as $$
  select max((stepquota.reserve_workflow_step(p_tenant)).used_count) from generate_series(1, p_units);
$$;
create function pg_temp.due(p_tenant text) returns bigint language sql as $$
  select alert_at_count from stepquota.workflow_step_quotas where tenant = p_tenant;
$$;
select is(stepquota._count_at_percent(l, p), c, format('%s percent of %s', p, l))
  from (values (150, 50, 75), (150, 80, 120), (7, 50, 4), (7, 100, 7), (1, 1, 1), (3, 34, 2), (200, 120, 240),
    (9223372036854775807, 100, 9223372036854775807), (9223372036854775807, 1000, 9223372036854775807), (0, 50, null), (null::bigint, 50, null)) v (l, p, c);

select give_limit('acme', 10);
select is(pg_temp.due('acme'), 5::bigint, 'half of the limit is the next');
select is(pg_temp.take('acme', 4), 4::bigint, 'four units');
select is(pg_temp.reached('acme'), '', 'are too few');
select is(pg_temp.take('acme', 1), 5::bigint, 'the fifth');
select is(pg_temp.reached('acme'), '50 at 5', 'is half');
select is((select e.details || '{"percent": null}' from stepquota.quota_events e where e.tenant = 'acme' and e.event_type = 'quota_threshold_reached'),
  jsonb_build_object('percent', null, 'threshold_count', 5, 'used_count', 5, 'effective_limit', 10, 'period_start', timestamptz '2026-04-01Z', 'period_end', timestamptz '2026-05-01Z',
    'limit_source', 'tier_default', 'tier', 'tier of acme', 'generation', 1), 'with the figures of that moment');
select is(pg_temp.due('acme'), 8::bigint, 'then 80');
select is(pg_temp.take('acme', 6), 10::bigint, 'up to the limit and beyond');
select is(pg_temp.reached('acme'), '50 at 5, 80 at 8, 90 at 9, 100 at 10', 'each once');
select is(pg_temp.due('acme'), null, 'there is no further one');
select set_clock('2026-05-01Z');
select is(pg_temp.take('acme', 5), 5::bigint, 'the next period');
select is(pg_temp.reached('acme'), '50 at 5, 80 at 8, 90 at 9, 100 at 10, 50 at 5', 'begins anew');

-- Batches, of all three kinds, and steps.
select give_limit(t, 10) from unnest(array['batch', 'opened', 'each', 'step', 'partial']) t;
select (stepquota.reserve_workflow_steps('batch', 9)).granted, (stepquota.open_workflow_step_batch('opened', '00000000-0000-0000-0000-000000000001', 8, 'me')).granted,
  (stepquota.register_workflow_run('each', 'r')).status, (stepquota.reserve_workflow_steps('partial', 11, true)).granted;
select count(*) from stepquota.start_workflow_steps('each', 'r', array['a', 'b', 'c', 'd', 'e']);
select use_units('step', 5);
select is(array[pg_temp.reached('batch'), pg_temp.reached('opened'), pg_temp.reached('each'), pg_temp.reached('partial'), pg_temp.reached('step')],
  array['50 at 9, 80 at 9, 90 at 9', '50 at 8, 80 at 8', '50 at 5', '50 at 10, 80 at 10, 90 at 10, 100 at 10', '50 at 5'], 'also by batches, a forEach and steps');

-- Without a limit there are no percents, nor of a limit of 0.
select give_limit('free', null);
select is(pg_temp.take('free', 20), 20::bigint, 'unlimited');
select is(pg_temp.reached('free'), '', 'has no thresholds');
select (stepquota.set_policy('zero_limit_blocks', 'true')).changed;
select subscribe('blocked', '"0"', p_start => '2026-05-01Z', p_end => '2026-06-01Z');
select is((stepquota.reserve_workflow_step('blocked')).allowed, false, 'nor has a limit of 0');
select is(pg_temp.reached('blocked'), '', 'which only denies');

-- Other percents.
select (stepquota.set_policy('alert_percents', '{100,60,60,200}')).value;
select give_limit('other', 10);
select is(pg_temp.take('other', 10), 10::bigint, 'all');
select is(pg_temp.reached('other'), '60 at 6, 100 at 10', 'those of the policy');
select * from finish();
rollback;
