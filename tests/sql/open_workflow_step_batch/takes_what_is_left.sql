-- A batch takes as many units as are left, once, and is a row; the ones before it are closed first.
begin;
select plan(20);
select set_clock('2026-04-15Z');
select give_limit('acme', 10);
create function id(p_number integer) returns uuid language sql as $$ select ('00000000-0000-0000-0000-' || lpad(p_number::text, 12, '0'))::uuid $$;
create function batch(p_number integer) returns text language sql as $$
  select format('%s of %s, %s returned, %s', coalesce(b.handed_out_count::text, '?'), b.granted_count, coalesce(b.returned_count::text, '?'),
           case when b.closed_at is null then 'open' else 'closed' end)
    from stepquota.workflow_step_batches b where b.tenant = 'acme' and b.batch_id = id(p_number) $$;
select is((select array[q.granted, q.used_count, q.remaining] from stepquota.open_workflow_step_batch('acme', id(1), 4, 'me') q), array[4, 4, 6]::bigint[], 'four of ten');
select is(batch(1), '? of 4, ? returned, open', 'are a batch');
select is((select unledgered_count from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')), 4::bigint, 'of units without a ledger row');
select is((select array[q.granted, q.used_count] from stepquota.open_workflow_step_batch('acme', id(1), 4, 'me') q), array[4, 4]::bigint[], 'the same again answers the same and takes nothing');
select is((select array[q.granted, q.used_count] from stepquota.open_workflow_step_batch('acme', id(2), 3, 'me', array[id(1)], array[4]) q), array[3, 7]::bigint[], 'the next one');
select is(batch(1), '4 of 4, 0 returned, closed', 'closes the one before');
select is((select array[q.granted, q.used_count] from stepquota.open_workflow_step_batch('acme', id(3), 9, 'me', array[id(2)], array[1]) q), array[5, 10]::bigint[], 'what was not handed out can be taken again, in the same call');
select is(batch(2), '1 of 3, 2 returned, closed', 'and was given back');
select is((select array[q.granted, q.used_count, q.remaining] from stepquota.open_workflow_step_batch('acme', id(4), 2, 'me', array[id(3)], array[5]) q), array[0, 10, 0]::bigint[], 'then there is none');
select is(batch(4), null, 'which leaves no row');
select is((select q.allowed from stepquota.open_workflow_step_batch('acme', id(4), 2, 'me') q), false, 'and is a denial');
select is(count_events('acme', 'quota_exhausted'), 1::bigint, 'recorded once');
select is((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'acme'), 10::bigint, 'the quota row is marked');
select is((select q.granted from stepquota.open_workflow_step_batch('acme', id(4), 1, 'me', array[id(3), id(9)], array[2, 7]) q), 0::bigint, 'a batch that is closed or unknown is passed over');
select is(batch(3), '5 of 5, 0 returned, closed', 'and stays as it is');
select refuses($$select * from stepquota.open_workflow_step_batch('acme', id(3), 1, 'me')$$, 'WQ026', 'a closed batch is not opened again');
select give_limit('acme', 12);
select is((select q.granted from stepquota.open_workflow_step_batch('acme', id(5), 1, 'me') q), 1::bigint, 'a raise goes on');
select refuses($$select * from stepquota.open_workflow_step_batch('acme', id(6), 1, 'me', array[id(5)], array[2])$$, 'WQ001', 'more handed out than granted is no count');
-- Asked again in the next period: the units are still those of the period they were counted in.
select set_clock('2026-05-02Z');
select is((select format('%s %s %s', q.granted, q.used_count, q.period_start at time zone 'UTC') from stepquota.open_workflow_step_batch('acme', id(5), 1, 'me') q), '1 11 2026-04-01 00:00:00', 'asked again in a later period');
select is_empty('select * from stepquota.verify_all()', 'all is well');
select * from finish();
rollback;
