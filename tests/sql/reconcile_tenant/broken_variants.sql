-- The tests of findings would see a reconciliation that is broken: each guard is taken out once.
begin;
select plan(9);
select set_clock('2026-04-15Z');
create function break(p_name text, p_old text, p_new text) returns void language plpgsql as $$
declare
  v_definition text := (select pg_get_functiondef(p.oid) from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.proname = p_name);
begin
  if (length(v_definition) - length(replace(v_definition, p_old, ''))) / length(p_old) <> 1 then
    raise exception '% has not exactly one %', p_name, p_old;
  end if;
  execute replace(v_definition, p_old, p_new);
end;
$$;
select use_units('acme', 3);
select stepquota.reserve_workflow_step('acme') from generate_series(1, 2);
select is(stepquota.reconcile_tenant('acme'), 0::bigint, 'nothing is wrong');
savepoint sound;
select break('_classify_usage', 'p_usage.used_count - p_usage.unledgered_count - stepquota', 'p_usage.used_count - stepquota');
select is(stepquota.reconcile_tenant('acme'), 1::bigint, 'units without a ledger row here would be a false alarm');
rollback to sound;
update stepquota.workflow_step_usage_periods set purged_step_count = 2 where tenant = 'acme';
delete from stepquota.workflow_run_steps where tenant = 'acme' and node_path <> 'root.steps[1]';
select is(stepquota.reconcile_tenant('acme'), 0::bigint, 'purged rows are counted');
select is_empty('select * from stepquota.verify_all()', 'by verify_all too');
select break('_count_ledgered_steps', ' + p_usage.purged_step_count', '');
select is(stepquota.reconcile_tenant('acme'), 1::bigint, 'or there would be a false alarm');
rollback to sound;
select set_clock('2026-05-02Z');
insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, used_count, unledgered_count) values ('acme', '2026-05-01T23:30:00Z', 0, 150, 1, 1);
select is(stepquota.reconcile_tenant('acme'), 0::bigint, 'a period that is being opened is left alone');
update stepquota.workflow_step_usage_lanes set period_start = '2026-05-01T22:30:00Z' where tenant = 'acme' and period_start = '2026-05-01T23:30:00Z';
select is(stepquota.reconcile_tenant('acme'), 1::bigint, 'but not for longer than an hour');
rollback to sound;
-- What goes wrong with one tenant is kept, and does not stop the others.
select break('_record_findings', 'v_open bigint[] := ''{}''::bigint[];', 'v_open bigint[] := (1 / (p_tenant <> ''acme'')::integer)::text;');
set local client_min_messages = error;
select is(stepquota.reconcile_tenant('acme'), null, 'a failure is no answer');
select is((select error ->> 'sqlstate' from stepquota.reconciled_tenants where tenant = 'acme'), '22012', 'and kept');
select * from finish();
rollback;
