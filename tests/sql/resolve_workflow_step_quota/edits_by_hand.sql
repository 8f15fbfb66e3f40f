-- Rows edited by hand are seen when the stored quota is older than policy.staleness; moving a period's
-- end or swapping the price never resets usage.
begin;
select plan(11);
select set_clock('2026-04-15T12:00:00Z');
select subscribe('acme', '"10"');
select (stepquota.reserve_workflow_step('acme')).allowed from generate_series(1, 4);

update stepquota.stripe_prices set metadata = '{"workflow_step_limit": "20"}' where id = 'price_main_acme';
select set_clock('2026-04-15T12:00:29Z');
select matches(quota_of('acme'), ' 10 ', 'within the staleness the stored quota counts');
select set_clock('2026-04-15T12:00:30Z');
select matches(quota_of('acme'), ' 20 ', 'after it the inputs are looked at again');
select is((select format('%s to %s', e.details ->> 'from', e.details ->> 'to') from stepquota.quota_events e where e.tenant = 'acme' and e.event_type = 'limit_changed'),
  '10 to 20', 'and the change is recorded');
select is(used('acme'), 4::bigint, 'usage stays');

select subscribe('acme', '"20"', p_end => '2026-05-15Z');
select matches(quota_of('acme'), '^2026-04-01T00:00:00\.\.2026-05-15T', 'a period''s end may move');
select is((select used_count from stepquota.resolve_workflow_step_quota('acme')), 4::bigint, 'without a reset');
select is((select period_end from stepquota.workflow_step_usage_periods where tenant = 'acme'), '2026-05-15Z'::timestamptz, 'the period''s row follows');

select apply(subscription('sub_main_acme', 'acme', jsonb_build_array(item('si_main_acme', price('price_other', product('prod_other'), '"3"')))));
select is((select array[q.used_count, q.effective_limit, q.remaining] from stepquota.resolve_workflow_step_quota('acme') q), array[4, 3, 0]::bigint[],
  'another price, lower than what is used: nothing is reset and nothing left');
select ok(not (stepquota.reserve_workflow_step('acme')).allowed, 'nothing is allowed');
select is_empty('select * from stepquota.verify_all()', 'and every invariant holds');
select set_clock('2026-04-15T11:00:00Z');
select matches(quota_of('acme'), ' 3 ', 'a clock that goes back refreshes, and harms nothing');

select * from finish();
rollback;
