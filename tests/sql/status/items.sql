-- Wiring and health, an item a row; what is not well says what to do.
-- transaction: none
select plan(11);
select set_clock('2026-04-15T12:00:00Z');
create function state_of(p_item text) returns text language sql as $$ select s.state from stepquota.status() s where s.item = p_item $$;
select set_eq('select item from stepquota.status()', array['version', 'clock', 'roles', 'scheduler', 'last scan errors', 'ledger partitions', 'paused tenants', 'resumptions', 'open batches', 'stripe sync'], 'its items');
select is(state_of('clock'), 'warn', 'a test clock is warned of');
select is(state_of('scheduler'), 'warn', 'so is that nothing is scheduled');
select is_empty($$select * from stepquota.status() where state in ('warn', 'error') and coalesce(hint, '') = ''$$, 'what is not well has a hint');
call stepquota.tick();
select is(state_of('scheduler'), 'ok', 'a scan has run');
select is(state_of('ledger partitions'), 'ok', 'and made the partitions');
select give_limit('acme', 1), use_units('acme', 1);
select count(pause_run('acme', 'r'));
select give_limit('acme', 2);
select set_clock('2026-04-15T12:16:00Z');
select is(state_of('scheduler'), 'warn', 'it is 15 minutes ago');
select is(state_of('resumptions'), 'warn', 'and nobody took the resumption');
select (stepquota.open_workflow_step_batch('globex', '00000000-0000-0000-0000-000000000001', 1, 'me')).granted;
select is(state_of('open batches'), 'ok', 'a batch may be open');
select set_clock('2026-04-15T12:17:00Z');
select is(state_of('open batches'), 'warn', 'but not for longer than policy says');
update stepquota.policy set allow_test_clock = false;
select is(state_of('clock'), 'ok', 'the database''s clock');
select * from finish();
