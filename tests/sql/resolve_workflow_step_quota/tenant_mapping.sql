-- Whose subscription it is: the application's mapping, then the customer's metadata, then the subscription's.
begin;
select plan(14);
select set_clock('2026-04-15Z');
create function pg_temp.owner() returns text language sql as $$
  select coalesce(string_agg(t, ', ' order by t), 'nobody')
    from unnest(array['mapped', 'customers', 'subscriptions', 'other']) t
   where (stepquota.resolve_workflow_step_quota(t)).stripe_subscription_id is not null;
$$;
create function pg_temp.sub(p_customer jsonb, p_metadata jsonb) returns void language sql as $$
  select tap.apply(tap.subscription('sub_1', 'x', jsonb_build_array(tap.item('si_1', tap.price('price_1', tap.product('prod_1'), '"10"'))),
    p_changes => jsonb_build_object('customer', p_customer, 'metadata', p_metadata)));
$$;
create function pg_temp.customer(p_tenant text) returns jsonb language sql as $$
  select jsonb_build_object('id', 'cus_1', 'object', 'customer', 'email', 'other@example.org',
    'metadata', case when p_tenant is null then '{}'::jsonb else jsonb_build_object('tenant', p_tenant) end);
$$;

select pg_temp.sub('"cus_1"', '{}');
select is(pg_temp.owner(), 'nobody', 'without any word it is nobody''s');
select pg_temp.sub('"cus_1"', '{"tenant": "subscriptions"}');
select is(pg_temp.owner(), 'subscriptions', 'the subscription''s metadata');
select apply(pg_temp.customer('customers'));
select is(pg_temp.owner(), 'customers', 'the customer''s metadata goes before it');
select is(action, 'inserted', 'the application may say')
from stepquota.map_stripe_customer('cus_1', 'mapped');
select is(pg_temp.owner(), 'mapped', 'and its word goes before both');
select is(action, 'unchanged', 'saying so again changes nothing') from stepquota.map_stripe_customer('cus_1', 'mapped');
select is(action, 'updated', 'it may say otherwise') from stepquota.map_stripe_customer('cus_1', 'other');
select is(pg_temp.owner(), 'other', 'and both tenants'' quotas follow');
delete from stepquota.stripe_customer_tenants;
select stepquota.refresh_workflow_step_quota(t) from unnest(array['mapped', 'customers', 'subscriptions', 'other']) t;
select is(pg_temp.owner(), 'customers', 'without the mapping the customer''s metadata counts again');
select apply(pg_temp.customer(null));
select is(pg_temp.owner(), 'subscriptions', 'metadata that names nobody is passed over');
select apply(pg_temp.customer('other'));
select apply('{"id": "cus_1", "object": "customer", "deleted": true}');
select is(pg_temp.owner(), 'subscriptions', 'so is a deleted customer''s');
select pg_temp.sub(pg_temp.customer('customers'), '{"tenant": ""}');
select is(pg_temp.owner(), 'nobody', 'an empty name is none');
select pg_temp.sub('"cus_2"', '{"tenant": "other", "org": "subscriptions"}');
select is(pg_temp.owner(), 'other', 'the key is policy''s');
select value from stepquota.set_policy('tenant_metadata_key', 'org');
select stepquota.refresh_workflow_step_quota(t) from unnest(array['mapped', 'customers', 'subscriptions', 'other']) t;
select is(pg_temp.owner(), 'subscriptions', 'and another key reads what is there again');

select * from finish();
rollback;
