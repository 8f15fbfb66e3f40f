-- Paused runs in great numbers, as if their steps had been refused, and the common way to resume them.

-- p_tenants tenants, each with a limit of 10, all of it used, and p_runs runs paused at their first step.
-- The first p_eligible of them have p_units units left. The last p_mirrored get their limit from Stripe.
create procedure peers.pause_runs(p_tenants integer, p_runs integer, p_eligible integer, p_units integer, p_mirrored integer)
language plpgsql
as $pause_runs$
declare
  v_now timestamptz := clock_timestamp();
  v_month date := date_trunc('month', v_now at time zone 'UTC')::date;
begin
  insert into stepquota.tiers (tier, step_limit) values ('ten', 10);
  insert into stepquota.tenants (tenant, plan)
  select 'p' || n, 'ten' from generate_series(1, p_tenants) n;

  insert into stepquota.stripe_products (id, metadata, fetched_at) values ('prod_ten', '{}', v_now);
  insert into stepquota.stripe_prices (id, product_id, recurring_interval, recurring_interval_count, metadata, fetched_at)
  values ('price_ten', 'prod_ten', 'month', 1, '{"workflow_step_limit": "10"}', v_now);
  insert into stepquota.stripe_customers (id, metadata, metadata_tenant, fetched_at)
  select 'cus_' || n, jsonb_build_object('tenant', 'p' || n), 'p' || n, v_now
    from generate_series(p_tenants - p_mirrored + 1, p_tenants) n;
  insert into stepquota.stripe_subscriptions (id, customer_id, status, billing_cycle_anchor, metadata, fetched_at)
  select 'sub_' || n, 'cus_' || n, 'active', date_trunc('day', v_now) - interval '3 days', '{}', v_now
    from generate_series(p_tenants - p_mirrored + 1, p_tenants) n;
  insert into stepquota.stripe_subscription_items
    (id, subscription_id, price_id, current_period_start, current_period_end, fetched_at)
  select 'si_' || n, 'sub_' || n, 'price_ten', date_trunc('day', v_now) - interval '3 days',
         date_trunc('day', v_now) + interval '27 days', v_now
    from generate_series(p_tenants - p_mirrored + 1, p_tenants) n;

  -- Each quota as the product itself stores it.
  perform stepquota.resolve_workflow_step_quota('p' || n) from generate_series(1, p_tenants) n;
  update stepquota.workflow_step_usage_lanes l
     set used_count = 10 - case when substr(l.tenant, 2)::integer <= p_eligible then p_units else 0 end,
         unledgered_count = 10 - case when substr(l.tenant, 2)::integer <= p_eligible then p_units else 0 end
   where l.tenant like 'p%';
  update stepquota.workflow_step_quotas q
     set exhausted_at_count = case when substr(q.tenant, 2)::integer > p_eligible then 10 end,
         reported_period_start = q.period_start, reported = q.reported || 'quota_exhausted'::text
   where q.tenant like 'p%';

  insert into stepquota.workflow_runs (tenant, run_id, status, node_path, ledger_month, registered_at)
  select 'p' || n, 'r' || r, 'WAITING', 'root.steps[0]', v_month, v_now
    from generate_series(1, p_tenants) n, generate_series(1, p_runs) r;
  -- Those who cannot go on have waited longest.
  insert into stepquota.workflow_run_waits
    (tenant, wait_id, run_id, node_path, node_paths, wait_type, reason, queued_at, created_at, payload)
  select 'p' || n, gen_random_uuid(), 'r' || r, 'root.steps[0]', '{root.steps[0]}', 'quota', 'quota',
         v_now - interval '2 days' + r * interval '1 ms' + case when n <= p_eligible then interval '1 day' else interval '0' end,
         v_now, '{}'
    from generate_series(1, p_tenants) n, generate_series(1, p_runs) r;
  insert into stepquota.paused_tenants (tenant, due_at, paused_at, inputs_hash)
  select q.tenant, case when substr(q.tenant, 2)::integer <= p_eligible then v_now else q.valid_until end, v_now, null
    from stepquota.workflow_step_quotas q where q.tenant like 'p%';
  update stepquota.paused_tenants t set inputs_hash = h.inputs_hash
    from stepquota._list_paused_input_hashes() h where h.tenant = t.tenant;
end;
$pause_runs$;
