-- The counter is brought to the ledger by an entry that says who, when and why; lanes own the limit again,
-- the exhausted mark is right, and what can go on does. A dry run writes nothing.
begin;
select plan(50);
select set_clock('2026-04-15Z');
select stepquota.make_ledger_partitions();
create function repaired(p_tenant text, p_dry_run boolean) returns text language sql as $$
  select format('%s to %s, %s, %s resumed', r.used_count_before, r.used_count_after, case when r.changed then 'changed' else 'right' end, r.runs_resumed)
    from stepquota.repair_workflow_step_usage(p_tenant, '2026-04-01Z', p_dry_run, 'ticket 7') r $$;
select give_limit('acme', 10), use_units('acme', 3);
select is(repaired('acme', false), '3 to 3, right, 0 resumed', 'nothing is wrong');
select is_empty('select * from stepquota.workflow_step_usage_adjustments', 'so there is no entry');
update stepquota.workflow_step_usage_lanes set used_count = 8 where tenant = 'acme';
select stepquota.reconcile_tenant('acme');
create temp table before as select count_rows() as rows;
select is(repaired('acme', true), '8 to 3, changed, 0 resumed', 'a dry run says what it would do');
select is((select changed from stepquota.repair_workflow_step_usage('acme', '2026-04-01Z')), true, 'and is the default');
select is(count_rows(), (select rows from before), 'and writes nothing');
select is(used('acme'), 8::bigint, 'nor changes the counter');
select is(repaired('acme', false), '8 to 3, changed, 0 resumed', 'the counter was ahead');
select is(used('acme'), 3::bigint, 'now it is what the ledger says');
select is((select format('%s %s %s %s %s', kind, used_count_before, used_count_after, adjusted_by = session_user, reason) from stepquota.workflow_step_usage_adjustments where tenant = 'acme'), 'repair 8 3 t ticket 7', 'the entry says who and why');
select is((select adjusted_at from stepquota.workflow_step_usage_adjustments where tenant = 'acme'), '2026-04-15Z'::timestamptz, 'and when');
select is(count_events('acme', 'usage_repaired'), 1::bigint, 'it is recorded');
select is((select count(*) from stepquota.reconciliation_findings where tenant = 'acme' and closed_at is null), 0::bigint, 'the finding is closed');
select is(repaired('acme', false), '3 to 3, right, 0 resumed', 'the same again changes nothing');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');

-- Too low: raised, past the limit if the ledger says so; what it was is not forgotten.
select give_limit('poor', 3), use_units('poor', 3);
update stepquota.workflow_step_usage_lanes set used_count = 1 where tenant = 'poor';
select is(repaired('poor', false), '1 to 3, changed, 0 resumed', 'the counter was behind');
select is((stepquota.reserve_workflow_step('poor')).allowed, false, 'and all is used up');
insert into stepquota.workflow_run_steps (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, period_start, started_at)
values ('poor', 'user', 'more', 1, '2026-04-01', gen_random_uuid(), 'action', '2026-04-01Z', '2026-04-15Z');
select is(repaired('poor', false), '3 to 4, changed, 0 resumed', 'more than the limit, as the ledger says');
select is((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'poor'), 4::bigint, 'the mark says so');
select is_empty('select * from stepquota.verify_all()', 'the lanes own what is used');

-- Lowered: what was paused goes on, as far as there are units.
select give_limit('dry', 3), use_units('dry', 1);
update stepquota.workflow_step_usage_lanes set used_count = 3 where tenant = 'dry';
select isnt(pause_run('dry', r), null, r || ' is paused') from unnest(array['a', 'b', 'c']) r;
select isnt((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'dry'), null, 'known to be exhausted');
select is(repaired('dry', false), '3 to 1, changed, 2 resumed', 'two units are free, two runs go on');
select is((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'dry'), null, 'the mark is gone');
select is((select count(*) from stepquota.workflow_run_resumptions where tenant = 'dry'), 2::bigint, 'handed out');
select is((select outcome from stepquota.start_workflow_step('dry', 'a', 'root.steps[0]')), 'started', 'and they start');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');

-- Many lanes; lanes that own too much; units without a ledger row here stay.
select give_limit('wide', 64000), use_units('wide', 3);
select stepquota._fan_out_lane('wide', '2026-04-01Z', 0);
select (stepquota.reserve_workflow_steps('wide', 5000)).granted;
update stepquota.workflow_step_usage_lanes set used_count = used_count + 1 where tenant = 'wide' and lane in (3, 63);
update stepquota.workflow_step_usage_lanes set allowance = allowance + 7 where tenant = 'wide' and lane = 5;
select is(repaired('wide', false), '5005 to 5003, changed, 0 resumed', 'over many lanes');
select is((select sum(unledgered_count) from stepquota.workflow_step_usage_lanes where tenant = 'wide'), 5000::numeric, 'what has its ledger elsewhere stays');
select is((select array[sum(allowance), count(*)] from stepquota.workflow_step_usage_lanes where tenant = 'wide'), array[64000, 64]::numeric[], 'together they own the limit');
update stepquota.workflow_step_usage_lanes set allowance = allowance + 7 where tenant = 'wide' and lane = 5;
select is(repaired('wide', false), '5003 to 5003, changed, 0 resumed', 'lanes that own too much alone');
select is((select q.granted from stepquota.reserve_workflow_steps('wide', 64000, true) q), 58997::bigint, 'exactly what is left can be taken');
delete from stepquota.workflow_step_usage_lanes where tenant = 'wide' and lane = 7;
select lives_ok($$select * from stepquota.repair_workflow_step_usage('wide', '2026-04-01Z', false)$$, 'a lost lane is made again');
select is((select count(*) from stepquota.workflow_step_usage_lanes where tenant = 'wide'), 64::bigint, 'as an empty one');
delete from stepquota.workflow_step_usage_lanes where tenant = 'acme';
select is(repaired('acme', false), '0 to 3, changed, 0 resumed', 'even all of them');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');

-- Without a limit.
select give_limit('endless', null), use_units('endless', 2);
select is(repaired('endless', false), '2 to 2, right, 0 resumed', 'nothing is wrong without a limit');
update stepquota.workflow_step_usage_lanes set used_count = 7, allowance = 9 where tenant = 'endless';
select is(repaired('endless', false), '7 to 2, changed, 0 resumed', 'it is mended');
select is((select allowance from stepquota.workflow_step_usage_lanes where tenant = 'endless'), null, 'and has no limit');

-- An attempt that is in the ledger twice is counted once.
insert into stepquota.workflow_run_steps (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, period_start, started_at)
select tenant, run_id, node_path, attempt, '2026-05-01', gen_random_uuid(), step_type, period_start, started_at
  from stepquota.workflow_run_steps where tenant = 'acme' and node_path = 'root.steps[2]';
select is(repaired('acme', false), '3 to 3, right, 0 resumed', 'a duplicate is not charged');

-- An earlier period: its lanes stay closed, and the current one is not touched.
select give_limit('late', 10), use_units('late', 2);
select set_clock('2026-05-02Z');
select is((stepquota.reserve_workflow_step('late')).used_count, 1::bigint, 'the next period');
update stepquota.workflow_step_usage_lanes set used_count = 9 where tenant = 'late' and period_start = '2026-04-01Z';
select is(repaired('late', false), '9 to 2, changed, 0 resumed', 'an earlier period');
select is((select array[allowance, used_count] from stepquota.workflow_step_usage_lanes where tenant = 'late' and period_start = '2026-04-01Z'), array[2, 2]::bigint[], 'its lanes are closed at what is used');
select is((select array[allowance, used_count] from stepquota.workflow_step_usage_lanes where tenant = 'late' and period_start = '2026-05-01Z'), array[10, 1]::bigint[], 'the current one is as it was');

select refuses($$select * from stepquota.repair_workflow_step_usage('acme', '2026-03-01Z', false)$$, 'WQ018', 'a period the tenant never had');
select refuses($$select * from stepquota.repair_workflow_step_usage('nobody', '2026-04-01Z', false)$$, 'WQ018', 'a tenant that never was');
-- Broken on purpose: without looking at the mark and at who is paused, that would be seen.
select give_limit('stuck', 1), use_units('stuck', 1);
insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, used_count) select 'stuck', period_start, 1, 0, 0 from stepquota.workflow_step_quotas where tenant = 'stuck';
update stepquota.workflow_step_quotas set lane_count = 2 where tenant = 'stuck';
delete from stepquota.workflow_run_steps where tenant = 'stuck';
select isnt(pause_run('stuck', 'r'), null, 'a paused run');
do $$
begin
  execute replace(replace(pg_get_functiondef('stepquota._settle_capacity(text, text, timestamptz)'::regprocedure),
    'set exhausted_at_count = null', 'set lane_count = lane_count'), 'if not exists (select 1 from stepquota.paused_tenants', 'if exists (select 1 from stepquota.paused_tenants');
end;
$$;
select period_start from stepquota.repair_workflow_step_usage('stuck', '2026-05-01Z', false);
select is((stepquota.reserve_workflow_step('stuck')).allowed, false, 'a unit is free, and the mark denies it');
select is(run_state('stuck', 'r'), 'WAITING at root.steps[0]', 'and the run waits on');
select * from finish();
rollback;
