-- A paused run is looked at when time alone changes its tenant's quota, which may be before the period's end.
begin;
select plan(4);
select set_clock('2026-04-15Z');
select subscribe('acme', '"1"', p_start => '2026-04-10Z', p_end => '2026-05-10Z', p_changes => '{"cancel_at": "2026-04-20Z"}');
select use_units('acme', 1);
select isnt(pause_run('acme', 'r'), null, 'a paused run, of a subscription that is due to end');
select is((select due_at from stepquota.paused_tenants where tenant = 'acme'), '2026-04-20Z'::timestamptz, 'the scan comes when it ends');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select set_clock('2026-04-20 00:01Z');
select is((select array_agg(t) from stepquota.list_due_tenants(10) t), array['acme'], 'not when its period would have ended');
select * from finish();
rollback;
