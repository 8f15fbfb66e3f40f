-- A lane is split where callers meet often: 8 times within a second; and only if that is worth it.
begin;
select plan(7);
select set_clock('2026-04-15Z');
select stepquota.set_tier_limit('wide', 20000);
select stepquota.set_tenant_plan('acme', 'wide');
select stepquota.set_tenant_plan('globex', 'solo');
create temporary view lane_counts as
  select array_agg(q.lane_count order by q.tenant) as counts from stepquota.workflow_step_quotas q;
select lives_ok($$select stepquota._note_contention('acme', '2026-04-01Z', 0, '2026-04-15Z') from generate_series(1, 7)$$, 'seven meet');
select is((select counts from lane_counts), array[1, 1], 'which is not often');
select lives_ok($$select stepquota._note_contention('acme', '2026-04-01Z', 0, '2026-04-15 00:00:02Z') from generate_series(1, 7)$$, 'two seconds later seven more');
select is((select counts from lane_counts), array[1, 1], 'which is not often either');
select lives_ok($$select stepquota._note_contention('acme', '2026-04-01Z', 0, '2026-04-15 00:00:03Z'), stepquota._note_contention('globex', '2026-04-01Z', 0, '2026-04-15Z') from generate_series(1, 8)$$, 'an eighth');
select is((select counts from lane_counts), array[64, 1], 'splits the lane, but not that of a small limit');
select is_empty('select * from stepquota.verify_all()', 'the lanes own the limits');
select * from finish();
rollback;
