-- Whatever is edited by hand of all that a quota is resolved from, the scan's comparison sees it, once; and it
-- sees nothing where nothing was edited, nor that a tenant's neighbour was.
begin;
select plan(23);
select set_clock('2026-04-15T12:00:00Z');
-- One by its tier, one by customer metadata, one by the mapping, one by the subscription's metadata.
select give_limit('tier', 1), use_units('tier', 1);
select a.action from unnest(array['cus', 'map', 'sub']) s, stepquota.apply_stripe_object(jsonb_build_object('object', 'subscription', 'id', 'sub_' || s, 'status', 'active',
    'billing_cycle_anchor', seconds('2026-04-01Z'), 'metadata', case s when 'sub' then '{"tenant": "sub"}'::jsonb else '{}' end,
    'customer', jsonb_build_object('object', 'customer', 'id', 'cus_' || s, 'metadata', case s when 'cus' then '{"tenant": "cus"}'::jsonb else '{}' end),
    'items', jsonb_build_object('object', 'list', 'data', jsonb_build_array(jsonb_build_object('object', 'subscription_item', 'id', 'si_' || s,
      'current_period_start', seconds('2026-04-01Z'), 'current_period_end', seconds('2026-05-01Z'),
      'price', jsonb_build_object('object', 'price', 'id', 'price_' || s, 'recurring', '{"interval": "month", "interval_count": 1}'::jsonb, 'metadata', '{"workflow_step_limit": "1"}'::jsonb,
        'product', jsonb_build_object('object', 'product', 'id', 'prod_' || s, 'metadata', '{}'::jsonb)))))), '2026-04-15T11:59:00Z') a;
insert into stepquota.tiers (tier, step_limit) values ('like it', 1);
insert into stepquota.tenants (tenant, plan) values ('sub', 'like it');
select action from stepquota.map_stripe_customer('cus_map', 'map');
select use_units(t, 1), pause_run(t, 'r') from unnest(array['cus', 'map', 'sub']) t;
select pause_run('tier', 'r');

-- The tenants that a look finds to be edited, a minute after the last one, and that are then looked at.
create function pg_temp.noticed(p_edit text) returns text language plpgsql as $$
declare
  v_noticed text;
begin
  execute p_edit;
  perform tap.set_clock((current_setting('stepquota.now')::timestamptz + interval '1 minute')::text);
  perform stepquota.begin_resume_scan();
  select string_agg(t.tenant, ' ' order by t.tenant) into v_noticed from stepquota.paused_tenants t where t.due_at <= stepquota._now();
  perform stepquota.resume_due_tenant(t.tenant, 10) from stepquota.paused_tenants t where t.due_at <= stepquota._now();
  return coalesce(v_noticed, 'nobody');
end;
$$;
select is(pg_temp.noticed('select 1'), 'cus map sub tier', 'who is newly paused is looked at');
select is(pg_temp.noticed('select 1'), 'nobody', 'once');
select is(pg_temp.noticed('update stepquota.tiers set step_limit = 1 where tier = ''tier of tier'''), 'nobody', 'a tier that is what it was');
select is((select count(*) from stepquota.workflow_run_resumptions), 0::bigint, 'nobody goes on');
-- Each leaves the tenant without units, so that it stays paused.
select is(pg_temp.noticed('update stepquota.tenants set plan = ''like it'' where tenant = ''tier'''), 'tier', 'a plan');
select is(pg_temp.noticed('insert into stepquota.tenants (tenant, plan) values (''cus'', ''like it'')'), 'cus', 'a tenant''s row');
select is(pg_temp.noticed('update stepquota.stripe_prices set metadata = metadata || ''{"a": 1}'' where id = ''price_cus'''), 'cus', 'a price');
select is(pg_temp.noticed('update stepquota.stripe_products set metadata = metadata || ''{"a": 1}'' where id = ''prod_map'''), 'map', 'a product');
select is(pg_temp.noticed('update stepquota.stripe_subscriptions set status = ''past_due'' where id = ''sub_sub'''), 'sub', 'a subscription');
select is(pg_temp.noticed('update stepquota.stripe_subscription_items set current_period_end = ''2026-05-02Z'' where id = ''si_map'''), 'map', 'an item');
select is(pg_temp.noticed('insert into stepquota.stripe_subscription_items (id, subscription_id, price_id, current_period_start, current_period_end, fetched_at) values (''si_new'', ''sub_cus'', ''price_cus'', ''2026-04-01Z'', ''2026-05-01Z'', ''2026-04-15Z'')'), 'cus', 'another item');
select is(pg_temp.noticed('delete from stepquota.stripe_subscription_items where id = ''si_new'''), 'cus', 'one less');
select is(pg_temp.noticed('update stepquota.stripe_customers set metadata = metadata || ''{"a": 1}'' where id = ''cus_cus'''), 'cus', 'a customer');
select is(pg_temp.noticed('update stepquota.stripe_customer_tenants set mapped_at = mapped_at + interval ''1 second'' where customer_id = ''cus_map'''), 'map', 'a mapping');
select is(pg_temp.noticed('insert into stepquota.stripe_customer_tenants (customer_id, tenant, mapped_at) values (''cus_sub'', ''somebody'', ''2026-04-15Z'')'), 'sub', 'a mapping of the customer to somebody else');
select is(pg_temp.noticed('delete from stepquota.stripe_customer_tenants where customer_id = ''cus_sub'''), 'sub', 'and its end');
select is(pg_temp.noticed('update stepquota.policy set renewal_grace = ''1 day'''), 'cus map sub tier', 'a policy concerns all');
select is(pg_temp.noticed('update stepquota.tiers set step_limit = 151 where tier = ''solo'''), 'cus map sub tier', 'the default tier too');
select is(pg_temp.noticed('insert into stepquota.tiers (tier, step_limit) values (''new'', 1)'), 'nobody', 'a tier that is nobody''s does not');
select is(pg_temp.noticed('update stepquota.policy set epoch = epoch + 1'), 'nobody', 'nor does the epoch, which the functions raise');
-- And one that lets it go on.
select is(pg_temp.noticed('update stepquota.stripe_prices set metadata = ''{"workflow_step_limit": "2"}'' where id = ''price_sub'''), 'sub', 'a limit that is raised');
select is(run_state('sub', 'r') || ', ' || run_state('cus', 'r'), 'RUNNING at root.steps[0], WAITING at root.steps[0]', 'its run goes on, and no other');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
