-- Paused runs in great numbers, as if their steps had been refused, and the common way to resume them.

-- p_tenants tenants with a limit of 10, all of it used, and p_runs runs each, paused at their first step. The
-- first p_eligible of them have their 10 units; their runs have waited for the shortest time. Half of the
-- tenants get their limit from Stripe.
create procedure peers.pause_runs(p_tenants integer, p_runs integer, p_eligible integer)
language plpgsql
as $pause_runs$
declare
  v_now timestamptz := clock_timestamp();
  v_start timestamptz := date_trunc('day', v_now) - interval '3 days';
  v_month date := date_trunc('month', v_now at time zone 'UTC')::date;
begin
  insert into stepquota.tiers (tier, step_limit) values ('ten', 10);
  insert into stepquota.tenants (tenant, plan) select 'p' || n, 'ten' from generate_series(1, p_tenants) n;
  insert into stepquota.stripe_products (id, metadata, fetched_at) values ('prod_ten', '{}', v_now);
  insert into stepquota.stripe_prices (id, product_id, recurring_interval, recurring_interval_count, metadata, fetched_at)
  values ('price_ten', 'prod_ten', 'month', 1, '{"workflow_step_limit": "10"}', v_now);
  insert into stepquota.stripe_customers (id, metadata, metadata_tenant, fetched_at)
  select 'cus_' || n, jsonb_build_object('tenant', 'p' || n), 'p' || n, v_now
    from generate_series(p_tenants / 2 + 1, p_tenants) n;
  insert into stepquota.stripe_subscriptions (id, customer_id, status, billing_cycle_anchor, metadata, fetched_at)
  select 'sub_' || n, 'cus_' || n, 'active', v_start, '{}', v_now from generate_series(p_tenants / 2 + 1, p_tenants) n;
  insert into stepquota.stripe_subscription_items
    (id, subscription_id, price_id, current_period_start, current_period_end, fetched_at)
  select 'si_' || n, 'sub_' || n, 'price_ten', v_start, v_start + interval '30 days', v_now
    from generate_series(p_tenants / 2 + 1, p_tenants) n;

  -- One of each kind as the product itself stores it; the others are like it.
  perform stepquota.resolve_workflow_step_quota('p1'), stepquota.resolve_workflow_step_quota('p' || p_tenants);
  insert into stepquota.workflow_step_quotas
  select (jsonb_populate_record(q, jsonb_build_object('tenant', 'p' || n) || case when q.stripe_subscription_id is null then '{}'
            else jsonb_build_object('stripe_subscription_id', 'sub_' || n, 'stripe_subscription_item_id', 'si_' || n) end)).*
    from generate_series(2, p_tenants - 1) n
    join stepquota.workflow_step_quotas q on q.tenant = case when n <= p_tenants / 2 then 'p1' else 'p' || p_tenants end;
  insert into stepquota.workflow_step_usage_periods
  select (jsonb_populate_record(u, jsonb_build_object('tenant', 'p' || n))).*
    from generate_series(2, p_tenants - 1) n
    join stepquota.workflow_step_usage_periods u on u.tenant = case when n <= p_tenants / 2 then 'p1' else 'p' || p_tenants end;
  insert into stepquota.workflow_step_usage_lanes
  select (jsonb_populate_record(l, jsonb_build_object('tenant', 'p' || n))).*
    from generate_series(2, p_tenants - 1) n
    join stepquota.workflow_step_usage_lanes l on l.tenant = case when n <= p_tenants / 2 then 'p1' else 'p' || p_tenants end;
  update stepquota.workflow_step_usage_lanes set used_count = 10, unledgered_count = 10
   where tenant like 'p%' and substr(tenant, 2)::integer > p_eligible;
  update stepquota.workflow_step_quotas
     set exhausted_at_count = case when substr(tenant, 2)::integer > p_eligible then 10 end,
         reported_period_start = period_start, reported = reported || 'quota_exhausted'::text
   where tenant like 'p%';

  insert into stepquota.workflow_runs (tenant, run_id, status, node_path, ledger_month, registered_at)
  select 'p' || n, 'r' || r, 'WAITING', 'root.steps[0]', v_month, v_now
    from generate_series(1, p_tenants) n, generate_series(1, p_runs) r;
  insert into stepquota.workflow_run_waits
    (tenant, wait_id, run_id, node_path, node_paths, wait_type, reason, queued_at, created_at, payload)
  select 'p' || n, gen_random_uuid(), 'r' || r, 'root.steps[0]', '{root.steps[0]}', 'quota', 'quota',
         v_now - interval '2 days' + r * interval '1 ms' + case when n <= p_eligible then interval '1 day' else interval '0' end,
         v_now, '{}'
    from generate_series(1, p_tenants) n, generate_series(1, p_runs) r;
  insert into stepquota.paused_tenants (tenant, due_at, paused_at)
  select q.tenant, q.valid_until, v_now from stepquota.workflow_step_quotas q where q.tenant like 'p%';
  update stepquota.paused_tenants t set inputs_hash = h.inputs_hash
    from stepquota._list_input_hashes(true) h where h.tenant = t.tenant;
end;
$pause_runs$;

-- Before a scan: the eligible tenants have all their units and are due, and nobody edited anything just now.
create procedure peers.make_due(p_eligible integer)
language plpgsql
as $make_due$
begin
  truncate stepquota.workflow_run_resumptions;
  insert into stepquota.paused_tenants (tenant, due_at, paused_at)
  select 'p' || n, clock_timestamp(), clock_timestamp() from generate_series(1, p_eligible) n
  on conflict (tenant) do update set due_at = excluded.due_at;
  update stepquota.scan_state set inputs_compared_at = clock_timestamp();
end;
$make_due$;

-- The common design: the oldest waits of all tenants, and then the question whether there is capacity.
create index workflow_run_waits_oldest on stepquota.workflow_run_waits (queued_at) where wait_type = 'quota' and status = 'WAITING';
create function peers.scan_oldest(p_batch_size integer) returns integer
language plpgsql
as $scan_oldest$
declare
  v_wait stepquota.workflow_run_waits;
  v_resumed integer := 0;
begin
  for v_wait in
    select w.* from stepquota.workflow_run_waits w where w.wait_type = 'quota' and w.status = 'WAITING'
     order by w.queued_at limit p_batch_size
  loop
    if (stepquota.resolve_workflow_step_quota(v_wait.tenant)).allowed then
      update stepquota.workflow_run_waits set status = 'RESOLVED', resolved_at = clock_timestamp()
       where tenant = v_wait.tenant and wait_id = v_wait.wait_id;
      update stepquota.workflow_runs set status = 'RUNNING' where tenant = v_wait.tenant and run_id = v_wait.run_id;
      v_resumed := v_resumed + 1;
    end if;
  end loop;
  return v_resumed;
end;
$scan_oldest$;

-- p_runs resumptions of each of p_tenants tenants, to be claimed.
create procedure peers.resume_runs(p_tenants integer, p_runs integer)
language sql
as $resume_runs$
  insert into stepquota.workflow_run_resumptions
    (tenant, resumption_id, run_id, runtime, wait_id, wait_type, node_paths, unentered_paths, created_at, claimable_at)
  select 'c' || n, gen_random_uuid(), 'r' || r, 'default', gen_random_uuid(), 'quota', '{root}', '{root}', now(), now()
    from generate_series(1, p_runs) r, generate_series(1, p_tenants) n;
$resume_runs$;
