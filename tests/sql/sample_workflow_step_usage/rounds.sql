-- One round over all tenants an hour, in bounded steps; a row for those who used something.
begin;
select plan(21);
create function pg_temp.samples(p_tenant text) returns text language sql as $$
  select coalesce(string_agg(format('%s..%s %s of %s', to_char(s.since at time zone 'UTC', 'DD HH24:MI'), to_char(s.sampled_at at time zone 'UTC', 'DD HH24:MI'), s.units, s.used_count), ', ' order by s.sampled_at), '')
    from stepquota.workflow_step_usage_samples s where s.tenant = p_tenant;
$$;
select set_clock('2026-04-15T12:10:00Z');
select is(stepquota.sample_workflow_step_usage(), 0, 'nobody to look at');
select set_clock('2026-04-15T13:10:00Z');
select (stepquota.reserve_workflow_steps(t, 3)).granted from unnest(array['a', 'b', 'c']) t;
select (stepquota.resolve_workflow_step_quota('z')).allowed;
select is(stepquota.sample_workflow_step_usage(2), 2, 'two in one step');
select is(stepquota.sample_workflow_step_usage(2), 2, 'then the next');
select is(stepquota.sample_workflow_step_usage(2), 0, 'that is all');
select is(stepquota.sample_workflow_step_usage(2), 0, 'and the hour''s round');
select is(pg_temp.samples('a') || ' ' || pg_temp.samples('c'), '15 12:10..15 13:10 3 of 3 15 12:10..15 13:10 3 of 3', 'each used three');
select is(pg_temp.samples('z'), '', 'but one');
select set_clock('2026-04-15T13:59:59Z');
select (stepquota.reserve_workflow_step('a')).allowed;
select is(stepquota.sample_workflow_step_usage(), 0, 'not before the hour is over');
select set_clock('2026-04-15T14:00:00Z');
select is(stepquota.sample_workflow_step_usage(), 4, 'then all');
select is(pg_temp.samples('a') || '; ' || pg_temp.samples('b'), '15 12:10..15 13:10 3 of 3, 15 13:10..15 14:00 1 of 4; 15 12:10..15 13:10 3 of 3', 'who used nothing has no row');
select set_clock('2026-04-15T18:30:00Z');
select (stepquota.reserve_workflow_step('b')).allowed;
select is(stepquota.sample_workflow_step_usage(), 4, 'after hours in which nobody looked');
select is(pg_temp.samples('b'), '15 12:10..15 13:10 3 of 3, 15 14:00..15 18:30 1 of 4', 'it is not known when');

-- Units given back are not used; units of the old period are.
select (stepquota.open_workflow_step_batch('a', '00000000-0000-0000-0000-000000000001', 5, 'me')).granted;
select set_clock('2026-04-30T22:00:00Z');
select is(stepquota.sample_workflow_step_usage(), 4, 'a batch');
select (stepquota.close_workflow_step_batch('a', '00000000-0000-0000-0000-000000000001', 1)).returned_count;
select set_clock('2026-04-30T23:00:00Z');
select is(stepquota.sample_workflow_step_usage(), 4, 'of which some come back');
select (stepquota.reserve_workflow_steps('a', 2)).granted;
select set_clock('2026-05-01T00:00:00Z');
select (stepquota.reserve_workflow_steps('a', 3)).granted;
select is(stepquota.sample_workflow_step_usage(), 4, 'in the next period');
select is((select string_agg(format('%s of %s', units, used_count), ', ' order by sampled_at) from stepquota.workflow_step_usage_samples where tenant = 'a'),
  '1 of 4, 5 of 9, 0 of 5, 5 of 3', 'two of the old and three of the new one');
-- A period that takes usage over used nothing by that.
select subscribe('m', '100', p_start => '2026-05-01Z', p_end => '2026-06-01Z');
select (stepquota.reserve_workflow_steps('m', 10)).granted;
select set_clock('2026-05-02T00:00:00Z');
select stepquota.sample_workflow_step_usage();
select subscribe('m', '100', p_start => '2026-05-01T12:00:00Z', p_end => '2026-06-01Z');
select (stepquota.reserve_workflow_steps('m', 2)).used_count;
select set_clock('2026-05-02T01:00:00Z');
select stepquota.sample_workflow_step_usage();
select is((select string_agg(format('%s of %s', units, used_count), ', ' order by sampled_at) from stepquota.workflow_step_usage_samples where tenant = 'm'),
  '10 of 10, 2 of 12', 'a moved period');

-- What is old goes, but for the last one before.
select set_clock('2026-05-12T00:00:00Z');
select (stepquota.reserve_workflow_steps('a', 1)).granted;
select stepquota.sample_workflow_step_usage();
select is((select string_agg(format('%s of %s', units, used_count), ', ' order by sampled_at) from stepquota.workflow_step_usage_samples where tenant = 'a'),
  '5 of 3, 1 of 4', 'old samples are deleted');
select is((stepquota.forecast_workflow_step_usage('a')).history_hours, 168, 'and it is known that there was no use since');

-- A first round knows how much was used, and not when.
update stepquota.workflow_step_usage_sampling set round_at = null, previous_round_at = null, sampled_tenant = null;
delete from stepquota.workflow_step_usage_samples;
select stepquota.sample_workflow_step_usage();
select is(pg_temp.samples('a'), '12 00:00..12 00:00 0 of 4', 'the first round is where it begins');
-- The clock is set back.
select set_clock('2026-05-11T00:00:00Z');
select (stepquota.reserve_workflow_steps('b', 1)).granted;
select stepquota.sample_workflow_step_usage();
select is((select count(*) from stepquota.workflow_step_usage_samples where since > sampled_at), 0::bigint, 'a clock that was set back is no matter');
select * from finish();
rollback;
