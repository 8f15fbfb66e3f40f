-- Why a run is paused: reason, period, used, limit, sources, since; no row when it is not.
begin;
select plan(7);
select set_clock('2026-04-15T12:00:00Z');
select subscribe('acme', '"2"');
select use_units('acme', 2);
create temp table wait as select pause_run('acme', 'r', 'root.steps[3]') as wait_id;
select set_clock('2026-04-16T12:00:00Z');
select results_eq(
  $$select reason, period_start, period_end, used_count, effective_limit, period_source, limit_source, paused_since, wait_id, node_paths, unblocks_at from stepquota.workflow_run_quota_pause('acme', 'r')$$,
  $$select 'quota'::text, '2026-04-01Z'::timestamptz, '2026-05-01Z'::timestamptz, 2::bigint, 2::bigint, 'stripe_subscription'::text, 'stripe_price_metadata'::text,
      '2026-04-15T12:00:00Z'::timestamptz, wait_id, array['root.steps[3]'], '2026-05-01Z'::timestamptz from wait$$, 'all its columns');
select matches((select unblocked_by from stepquota.workflow_run_quota_pause('acme', 'r')), 'higher limit.*next period', 'what unblocks it');
select is_empty($$select * from stepquota.workflow_run_quota_pause('acme', 'user')$$, 'no row for a run that is not paused');
select refuses($$select * from stepquota.workflow_run_quota_pause('acme', 'none')$$, 'WQ002', 'an unknown run');
select refuses($$select * from stepquota.workflow_run_quota_pause('other', 'r')$$, 'WQ002', 'another tenant''s');
select subscribe('acme', '"3"');
select is_empty($$select * from stepquota.workflow_run_quota_pause('acme', 'r')$$, 'no row after the resume');
select is(run_state('acme', 'r'), 'RUNNING at root.steps[3]', 'at once, by the better price');
select * from finish();
rollback;
