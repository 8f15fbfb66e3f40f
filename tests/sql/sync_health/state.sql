-- How the Stripe sync is, in one row, with the state of status().
begin;
select plan(5);
select is((select s.state from stepquota.sync_health s), 'info', 'not set up');
select stepquota.bind_stripe_mirror('acct_1', false, '2026-01-01');
select is((select (s.state, s.account, s.livemode)::text from stepquota.sync_health s), '(warn,acct_1,f)', 'set up, and never caught up');
select isnt((select hint from stepquota.sync_health), null, 'with what to do');
select results_eq('select pending_events, dead_events, last_full_sync_at, needs_full_sync from stepquota.sync_health',
  'select pending_events, dead_events, last_full_sync_at, needs_full_sync from stepquota.stripe_sync_health()', 'with the figures of stripe_sync_health');
set local role stepquota_observer;
select is((select count(*) from stepquota.sync_health), 1::bigint, 'an observer may look');
reset role;
select * from finish();
rollback;
