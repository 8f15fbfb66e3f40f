-- Every object that was looked at, the one that won and why the others lost.
begin;
select plan(17);
select set_clock('2026-04-15Z');
create function pg_temp.verdict(p_tenant text, p_object_type text, p_object_id text) returns text language sql as $$
  select e.verdict || ': ' || e.reason from stepquota.explain_workflow_step_quota(p_tenant) e
   where e.object_type = p_object_type and e.object_id is not distinct from p_object_id;
$$;

select subscribe('acme', '"1200"', '"5000"', 'active', p_name => 'a');
select subscribe('acme', '"9"', null, 'past_due', p_name => 'b');
select subscribe('acme', '"9"', null, 'canceled', p_name => 'c');
select subscribe('acme', '"bad"', '"7"', 'active', '2026-03-15Z', '2026-04-14Z', p_name => 'd');
select subscribe('acme', '"9"', null, 'active', '2026-04-20Z', '2026-05-20Z', p_name => 'e');
select subscribe('acme', '"9"', null, 'active', '2026-01-01Z', '2026-02-01Z', p_name => 'f');
select matches(pg_temp.verdict('acme', 'subscription_item', 'si_a_acme'), '^won: .*sub_a_acme \(active\)', 'the winner');
select matches(pg_temp.verdict('acme', 'subscription_item', 'si_b_acme'), '^lost: .*past_due.*another is preferred', 'a worse status');
select matches(pg_temp.verdict('acme', 'subscription_item', 'si_c_acme'), '^lost: .*canceled does not qualify', 'a status that does not qualify');
select matches(pg_temp.verdict('acme', 'subscription_item', 'si_d_acme'), '^lost: .*another is preferred: a period that is running', 'one that is presumed');
select matches(pg_temp.verdict('acme', 'subscription_item', 'si_e_acme'), '^lost: .*starts only at 2026-04-20', 'one of the future');
select matches(pg_temp.verdict('acme', 'subscription_item', 'si_f_acme'), '^lost: .*ended at 2026-02-01.*no renewal', 'one long over');
select matches(pg_temp.verdict('acme', 'price', 'price_a_acme'), '^won: .*''1200''', 'the price that gives the limit');
select matches(pg_temp.verdict('acme', 'product', 'prod_a_acme'), '^lost: .*''5000''.*price''s goes first', 'the product behind it');
select matches(pg_temp.verdict('acme', 'price', 'price_d_acme'), '^lost: .*''bad'' is not valid', 'an invalid value');
select matches(pg_temp.verdict('acme', 'calendar_month', null), '^lost: ', 'the calendar');
select matches(pg_temp.verdict('acme', 'tier', 'solo'), '^lost: .*no plan.*solo', 'the tier');
select matches(pg_temp.verdict('acme', 'usage', 'acme'), '^info: 0 of 1200 .*1200 left until 2026-05-01 00:00:00 UTC', 'and the usage');
select is((select array_agg(e.position order by e.position) from stepquota.explain_workflow_step_quota('acme') e),
  (select array_agg(n::integer) from generate_series(1, 21) n), 'positions in order, three an item and three more');

select is((select count(*) from stepquota.explain_workflow_step_quota('acme') e where e.verdict = 'won'), 2::bigint,
  'one winner for the period and one for the limit');
select matches(pg_temp.verdict('nobody', 'calendar_month', null), '^won: No subscription qualifies', 'without a subscription the calendar wins');
select matches(pg_temp.verdict('nobody', 'tier', 'solo'), '^won: ', 'and the tier');
select is((select count(*) from stepquota.workflow_step_quotas where tenant = 'nobody'), 0::bigint, 'and nothing is stored');
select * from finish();
rollback;
