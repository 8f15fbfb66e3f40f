-- I7: usage goes along when a period's bounds move while it runs, and only then, unless policy says so.
begin;
select plan(14);
select set_clock('2026-04-15Z');
create function pg_temp.bill(p_start text, p_end text, p_limit text, p_subscription text default 'sub_1', p_price jsonb default '{}')
returns void language sql as $$
  select stepquota.apply_stripe_object(jsonb_build_object('object', 'subscription', 'id', p_subscription, 'status', 'active',
    'customer', '{"object": "customer", "id": "cus_1", "metadata": {"tenant": "acme"}}'::jsonb,
    'billing_cycle_anchor', extract(epoch from p_start::timestamptz)::bigint,
    'items', jsonb_build_object('data', jsonb_build_array(jsonb_build_object('id', 'si_' || p_subscription,
      'price', jsonb_build_object('object', 'price', 'id', 'price_1', 'product', 'prod_1',
        'recurring', jsonb_build_object('interval', coalesce(p_price ->> 'interval', 'month'), 'interval_count', 1),
        'metadata', jsonb_strip_nulls(jsonb_build_object('workflow_step_limit', p_limit, 'workflow_step_limit_interval', p_price ->> 'limit_interval'))),
      'current_period_start', extract(epoch from p_start::timestamptz)::bigint,
      'current_period_end', extract(epoch from p_end::timestamptz)::bigint)))), clock_timestamp());
$$;
create function pg_temp.used() returns bigint language sql as $$ select used_count from stepquota.resolve_workflow_step_quota('acme') $$;
select pg_temp.bill('2026-04-01Z', '2026-05-01Z', '10');
select stepquota.reserve_workflow_steps('acme', 5);
select pg_temp.bill('2026-04-01Z', '2026-05-08Z', '10');
select is(pg_temp.used(), 5::bigint, 'the end moves: the same period');
select pg_temp.bill('2026-04-10Z', '2026-05-10Z', '10');
select is(pg_temp.used(), 5::bigint, 'the start moves: carried over');
select is((select array[counter_used_count, unledgered_count] from stepquota.reconcile_workflow_step_usage('acme', '2026-04-10Z')), array[0, 0]::bigint[], 'reconciled is what was counted');
select stepquota.reserve_workflow_steps('acme', 2);
select pg_temp.bill('2026-04-01Z', '2026-05-01Z', '10');
select is(pg_temp.used(), 7::bigint, 'and back: nothing is lost or counted twice');
select pg_temp.bill('2026-04-01Z', '2026-05-01Z', '10');
select is(pg_temp.used(), 7::bigint, 'a webhook twice');
select is((select granted from stepquota.reserve_workflow_steps('acme', 9, true)), 3::bigint, 'what is carried is not free');
select is_empty('select * from stepquota.verify_all()', 'the lanes own what is left');
select set_clock('2026-05-01Z');
select is(pg_temp.used(), 0::bigint, 'a renewal begins at 0');
select pg_temp.bill('2026-05-01Z', '2026-06-01Z', '10');
select stepquota.reserve_workflow_steps('acme', 4);
select pg_temp.bill('2026-04-20Z', '2026-05-20Z', '20', 'sub_0');
select set_clock('2026-05-02Z');
select stepquota.apply_stripe_object('{"object": "subscription", "id": "sub_1", "deleted": true}', clock_timestamp());
select is(pg_temp.used(), 0::bigint, 'another subscription: a new count');
select stepquota.set_policy('usage_on_other_period', 'carry');
select stepquota.reserve_workflow_steps('acme', 6);
select stepquota.apply_stripe_object('{"object": "subscription", "id": "sub_0", "deleted": true}', clock_timestamp());
select is(pg_temp.used(), 6::bigint, 'unless policy says carry');
select stepquota.set_policy('usage_on_moved_period', 'reset');
select pg_temp.bill('2026-05-01T12:00Z', '2026-06-01T12:00Z', '20', 'sub_2');
select pg_temp.bill('2026-05-02Z', '2026-06-02Z', '20', 'sub_2');
select is(pg_temp.used(), 0::bigint, 'nor with reset');
-- A longer price by the month: months on the anchor day, counted from the anchor.
select pg_temp.bill('2025-10-31Z', '2026-10-31Z', '7', 'sub_2', '{"interval": "year", "limit_interval": "month"}');
select set_clock('2026-02-28Z');
select is((select array[period_start, period_end] from stepquota.resolve_workflow_step_quota('acme')), array['2026-02-28Z', '2026-03-31Z']::timestamptz[], 'February');
select set_clock('2026-10-30Z');
select is((select array[period_start, period_end] from stepquota.resolve_workflow_step_quota('acme')), array['2026-09-30Z', '2026-10-31Z']::timestamptz[], 'the last month of the year');
select is_empty('select * from stepquota.verify_all()', 'all invariants hold');
select * from finish();
rollback;
