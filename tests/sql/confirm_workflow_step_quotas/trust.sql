-- Stored quotas that were compared with their inputs are used longer than the staleness; those whose inputs were
-- edited are resolved again at once, and without comparisons all are when the staleness is over.
begin;
select plan(21);
select set_clock('2026-04-15T12:00:00Z');
select give_limit(t, 10), use_units(t, 1) from unnest(array['acme', 'other', 'third']) t;
create function pg_temp.compare_at(p_time text) returns bigint language sql as
  $$select tap.set_clock('2026-04-15T' || p_time || 'Z'); select stepquota.confirm_workflow_step_quotas()$$;
-- When a tenant's quota was resolved, as it is after one more unit was taken.
create function pg_temp.resolved_at(p_tenant text, p_limit bigint) returns text language plpgsql as $$
declare
  v_answer stepquota.workflow_step_quota := stepquota.reserve_workflow_step(p_tenant);
begin
  return (select to_char(q.refreshed_at at time zone 'UTC', 'HH24:MI:SS') from stepquota.workflow_step_quotas q where q.tenant = p_tenant)
    || case when v_answer.effective_limit = p_limit then '' else ' with limit ' || v_answer.effective_limit end;
end;
$$;
select is(pg_temp.compare_at('12:00:01'), 3::bigint, 'quotas that were never compared are marked');
select is(pg_temp.resolved_at(t, 10), '12:00:01', t || ' is resolved again') from unnest(array['acme', 'other', 'third']) t;
select is(pg_temp.compare_at('12:00:15'), null, 'in less than half of the staleness nothing is compared');
select is(pg_temp.compare_at('12:00:16'), 0::bigint, 'then nothing is found');
select set_clock('2026-04-15T12:00:45Z');
select is(pg_temp.resolved_at('acme', 10), '12:00:01', 'a quota of 44 seconds ago is used, as it was compared 29 seconds ago');
select is((select q.effective_limit from stepquota.resolve_workflow_step_quota('acme') q), 10::bigint, 'by everybody');
select is((select refreshed_at from stepquota.workflow_step_quotas where tenant = 'acme'), '2026-04-15T12:00:01Z'::timestamptz, 'and resolved by nobody');
select (stepquota.register_workflow_run('other', 'r')).status, (stepquota.start_workflow_step('other', 'r', 'root.steps[0]', 1)).outcome;
select is((select refreshed_at from stepquota.workflow_step_quotas where tenant = 'other'), '2026-04-15T12:00:01Z'::timestamptz, 'also by a step that starts');

update stepquota.tiers set step_limit = 20 where tier = 'tier of acme';
select is(pg_temp.resolved_at('acme', 10), '12:00:01', 'an edit by hand is not seen at once');
select is(pg_temp.compare_at('12:00:46'), 1::bigint, 'but by the next comparison');
select is(pg_temp.resolved_at('acme', 20), '12:00:46', 'and then it counts');
select is(pg_temp.resolved_at('other', 10), '12:00:01', 'for that tenant alone');
select is(pg_temp.compare_at('12:01:02'), 0::bigint, 'it is found once');

update stepquota.tiers set step_limit = 30 where tier = 'tier of acme';
select set_clock('2026-04-15T12:01:32Z');
select is(pg_temp.resolved_at('acme', 30), '12:01:32', 'without another comparison the staleness is what it was');
select is(pg_temp.compare_at('12:01:33'), 1::bigint, 'and a comparison finds what was resolved meanwhile');
select (stepquota.set_policy('renewal_grace', '1 day')).changed;
select is(pg_temp.resolved_at('other', 10), '12:01:33', 'what concerns all tenants is seen at once');
select set_clock('2026-04-15T12:01:02Z');
select is(pg_temp.resolved_at('third', 10), '12:01:02', 'a clock that goes back further than the staleness is not trusted');
select set_clock('2026-05-01T00:00:00Z');
select is((select q.period_start from stepquota.reserve_workflow_step('other') q), '2026-05-01Z'::timestamptz, 'a quota ends with its period, compared or not');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
