-- What is wrong with the mirror, for people: what somebody should put right at Stripe, in the mapping
-- of customers, or in how the sync runs.

-- One query for all. Subscriptions count while they qualify or could again; the bound is for each kind
-- of problem.
create or replace function stepquota.check_stripe(p_most integer default 100)
returns table (
  problem text, level text, object_type text, object_id text, tenant text, detail text, hint text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $check_stripe$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_policy stepquota.policy;
begin
  perform stepquota._check_unbound();
  if p_most is null or p_most < 1 then
    perform stepquota._refuse_argument('p_most', p_most::text, 'a number from 1', 'It bounds the rows of each kind of problem.');
  end if;
  select p.* into v_policy from stepquota.policy p;
  return query
    select f.problem, f.level, f.object_type, f.object_id, null::text, f.detail, f.hint
      from stepquota._check_stripe_feeders(v_now) f;
  return query
    with live as (
      select s.id, s.customer_id, s.status, coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant) as tenant
        from stepquota.stripe_subscriptions s
        left join stepquota.stripe_customer_tenants m on m.customer_id = s.customer_id
        left join stepquota.stripe_customers c on c.id = s.customer_id
       where s.deleted_at is null and s.status in ('trialing', 'active', 'past_due', 'unpaid')
         and (s.ended_at is null or s.ended_at > v_now) and (s.cancel_at is null or s.cancel_at > v_now)
    ),
    items as (
      select l.id as subscription_id, l.tenant, i.id as item_id, i.price_id,
             p.id is not null as has_price, p.product_id, r.id is not null as has_product,
             p.recurring_interval, p.recurring_interval_count,
             p.metadata ->> 'workflow_step_limit' as price_text, r.metadata ->> 'workflow_step_limit' as product_text,
             price_limit.state as price_state, product_limit.state as product_state,
             coalesce(p.metadata ->> 'workflow_step_limit_interval', r.metadata ->> 'workflow_step_limit_interval') as said_interval
        from live l
        join stepquota.stripe_subscription_items i on i.subscription_id = l.id and i.deleted_at is null
        left join stepquota.stripe_prices p on p.id = i.price_id and p.deleted_at is null
        left join stepquota.stripe_products r on r.id = p.product_id and r.deleted_at is null
       cross join lateral stepquota._read_step_limit(p.metadata ->> 'workflow_step_limit', v_policy.zero_limit_blocks) as price_limit
       cross join lateral stepquota._read_step_limit(r.metadata ->> 'workflow_step_limit', v_policy.zero_limit_blocks) as product_limit
    ),
    problems (place, problem, level, object_type, object_id, tenant, detail, hint) as (
      select distinct 1, 'invalid limit', 'error', 'price', i.price_id, null::text,
             format('workflow_step_limit is %L', i.price_text),
             'Correct the price''s metadata: a whole number above 0, or unlimited.'
        from items i where i.price_state = 'invalid'
      union all
      select distinct 1, 'invalid limit', 'error', 'product', i.product_id, null,
             format('workflow_step_limit is %L', i.product_text),
             'Correct the product''s metadata: a whole number above 0, or unlimited.'
        from items i where i.product_state = 'invalid'
      union all
      select distinct 2, 'price is missing', 'error', 'price', i.price_id, null,
             format('subscription %s has it, and the mirror does not', min(i.subscription_id) over (partition by i.price_id)),
             'Run stepquota stripe sync. Until then its product and the tier are looked at.'
        from items i where not i.has_price
      union all
      select distinct 3, 'product is missing', 'warn', 'price', i.price_id, null,
             format('its product %s is not in the mirror', coalesce(i.product_id, 'unknown')),
             'Run stepquota stripe sync. Until then the product''s limit is not known.'
        from items i where i.has_price and not i.has_product
      union all
      select 4, 'customer without tenant', 'error', 'customer', l.customer_id, null,
             format('subscription %s (%s) is nobody''s', l.id, l.status),
             format('Set %L in the customer''s metadata, or call map_stripe_customer.', v_policy.tenant_metadata_key)
        from live l where l.tenant is null
      union all
      select 5, 'several subscriptions', 'warn', 'subscription', min(l.id), l.tenant,
             format('%s subscriptions of %s customers qualify', count(*), count(distinct l.customer_id)),
             'One of them gives the quota: explain_workflow_step_quota says which.'
        from live l where l.tenant is not null
       group by l.tenant having count(*) > 1
      union all
      select 6, 'several limits', 'warn', 'subscription', i.subscription_id, min(i.tenant),
             format('%s items carry a limit', count(*)),
             'The greatest is taken; limits are not added up.'
        from items i where i.price_state in ('limited', 'unlimited') or i.product_state in ('limited', 'unlimited')
       group by i.subscription_id having count(*) > 1
      union all
      select distinct 7, 'interval not said', 'warn', 'price', i.price_id, null,
             format('billed every %s %s, with a limit for the whole of it',
               i.recurring_interval_count, i.recurring_interval),
             'Set workflow_step_limit_interval to month, or to period if that is meant.'
        from items i
       where (i.price_state = 'limited' or i.product_state = 'limited') and i.said_interval is null
         and (i.recurring_interval = 'year' or i.recurring_interval = 'month' and i.recurring_interval_count > 1)
      union all
      select 8, 'event is dead', 'error', e.object_type, e.object_id, null,
             format('event %s (%s) failed %s times: %s', e.id, e.event_type, e.attempts, left(e.last_error, 200)),
             'Put the cause right, then run stepquota stripe work with the option requeue, or requeue_stripe_events().'
        from stepquota.stripe_events e where e.status = 'dead'
    )
    select n.problem, n.level, n.object_type, n.object_id, n.tenant, n.detail, n.hint
      from (select p.*, row_number() over (partition by p.problem order by p.object_id, p.tenant) as number from problems p) n
     where n.number <= p_most
     order by n.place, n.object_type, n.object_id, n.tenant;
end;
$check_stripe$;

-- What is wrong with the feeders: silent for too long, or behind.
create or replace function stepquota._check_stripe_feeders(p_now timestamptz)
returns table (problem text, level text, object_type text, object_id text, detail text, hint text)
language plpgsql
stable
as $_check_stripe_feeders$
declare
  v_health record;
begin
  select h.* into v_health from stepquota.stripe_sync_health() h;
  object_type := 'feeder';
  if v_health.livemode is null then
    problem := 'not set up';
    level := 'error';
    detail := 'the mirror belongs to no Stripe account yet';
    hint := 'Run stepquota stripe sync.';
    return next;
    return;
  end if;
  level := 'error';
  object_id := 'sync';
  if v_health.last_full_sync_at is null or v_health.last_full_sync_at < p_now - interval '26 hours' then
    problem := 'no full sync';
    detail := 'the last one ended ' || coalesce('at ' || stepquota._format_moment(v_health.last_full_sync_at), 'never');
    hint := 'Run stepquota stripe sync once a day, or keep stepquota stripe run running.';
    return next;
  elsif v_health.needs_full_sync then
    problem := 'full sync wanted';
    detail := 'Stripe said that it could not make some events';
    hint := 'Run stepquota stripe sync.';
    return next;
  end if;
  if v_health.last_catch_up_at is null or v_health.last_catch_up_at < p_now - interval '15 minutes' then
    problem := 'no catch-up';
    object_id := 'catch-up';
    detail := 'the last one ended ' || coalesce('at ' || stepquota._format_moment(v_health.last_catch_up_at), 'never');
    hint := 'Run stepquota stripe catch-up every five minutes, or keep stepquota stripe run running.';
    return next;
  end if;
  if v_health.oldest_pending_at < p_now - interval '5 minutes' then
    problem := 'events wait';
    object_id := 'work';
    detail := format('%s events are to be worked off, the oldest since %s', v_health.pending_events,
      stepquota._format_moment(v_health.oldest_pending_at));
    hint := 'Run stepquota stripe work, or keep stepquota stripe run running; last_error in stepquota.stripe_events says what failed.';
    return next;
  end if;
  if v_health.last_webhook_at is null then
    problem := 'no webhook';
    level := 'info';
    object_id := 'serve';
    detail := 'no delivery was ever received';
    hint := 'Without an endpoint changes arrive with the next catch-up: see docs/stripe.md.';
    return next;
  end if;
end;
$_check_stripe_feeders$;

comment on function stepquota.check_stripe(integer) is
  'What is wrong with the Stripe mirror, a row a problem and object, at most p_most of a kind: problem, level (error, warn, info), object_type, object_id, tenant, detail, hint. WQ001 bad arguments.';
comment on function stepquota._check_stripe_feeders(timestamptz) is 'What is wrong with the feeders of the Stripe mirror.';
