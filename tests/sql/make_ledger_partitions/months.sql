-- Months that are missing are made, once; their rows are found by the idempotency key.
begin;
select plan(6);
select set_clock('2031-11-15Z');
select is(stepquota.make_ledger_partitions(2), 3, 'this month and two ahead');
select is(stepquota.make_ledger_partitions(2), 0, 'once');
select isnt(to_regclass('stepquota.workflow_run_steps_2032_01'), null, 'over the end of the year');
select is_empty($$select k.conname, k.conrelid::regclass from pg_inherits i join pg_constraint k on k.conrelid = i.inhrelid where i.inhparent = 'stepquota.workflow_run_steps'::regclass and k.contype = 'c' and k.coninhcount = 0$$, 'no check but those of the ledger: each makes every step dearer');
select refuses(format('select stepquota.make_ledger_partitions(%s)', n), 'WQ001', 'months ahead: ' || n) from unnest(array['null', '-1']) n;
select * from finish();
rollback;
