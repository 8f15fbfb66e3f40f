-- The lanes' table is never so short that a plan would read it whole.
begin;
select plan(4);
truncate stepquota.workflow_step_usage_lanes;
select is(pg_relation_size('stepquota.workflow_step_usage_lanes'), 0::bigint, 'a table without pages');
select lives_ok('select stepquota._pad_lanes()', 'is padded');
select ok(pg_relation_size('stepquota.workflow_step_usage_lanes') >= 16 * current_setting('block_size')::bigint, 'to 16 pages');
select is_empty('select 1 from stepquota.workflow_step_usage_lanes', 'by nothing that could be taken for a lane');
select * from finish();
rollback;
