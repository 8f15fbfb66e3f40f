-- Which period and limit a tenant has: the rules of choice, and their explanation.
--
-- There is one query that looks at every item of every subscription of the tenant and says what it
-- would give and why it does not qualify: _list_quota_candidates. The quota is its first row;
-- explain_workflow_step_quota prints them all.

-- The tenant of a subscription: the application's own mapping of the customer, then the customer's
-- metadata, then the subscription's. Never an e-mail, never a client reference: those can be forged.
create or replace function stepquota._list_tenant_subscriptions(p_tenant text)
returns setof stepquota.stripe_subscriptions
language sql
stable
as $_list_tenant_subscriptions$
  with customers as (
    select m.customer_id from stepquota.stripe_customer_tenants m where m.tenant = p_tenant
    union all
    select c.id from stepquota.stripe_customers c
     where c.metadata_tenant = p_tenant
       and not exists (select 1 from stepquota.stripe_customer_tenants m where m.customer_id = c.id)
  )
  select s.* from stepquota.stripe_subscriptions s
   where s.deleted_at is null and s.customer_id in (select c.customer_id from customers c)
  union all
  select s.* from stepquota.stripe_subscriptions s
   where s.deleted_at is null and s.metadata_tenant = p_tenant
     and not exists (select 1 from stepquota.stripe_customer_tenants m where m.customer_id = s.customer_id)
     and not exists (
       select 1 from stepquota.stripe_customers c
        where c.id = s.customer_id and c.metadata_tenant is not null);
$_list_tenant_subscriptions$;

-- Every subscription item of the tenant, best first, those that do not qualify last with the reason.
--
-- Statuses: trialing, active, past_due, unpaid. A period that contains the moment goes before one that
-- is only presumed because its renewal has not arrived. Then the status, a valid limit, the newest
-- start, the id. Inside a subscription: the item with a valid limit, the greatest, the oldest item,
-- the id; without any limit the earliest end.
create or replace function stepquota._list_quota_candidates(p_tenant text, p_now timestamptz)
returns table (
  candidate_rank bigint,
  item_rank bigint,
  subscription_id text,
  subscription_status text,
  item_id text,
  price_id text,
  product_id text,
  period_state text,
  period_start timestamptz,
  period_end timestamptz,
  valid_until timestamptz,
  price_limit_text text,
  price_limit_state text,
  product_limit_text text,
  product_limit_state text,
  has_valid_limit boolean,
  step_limit bigint,
  limit_source text,
  starts_later_at timestamptz,
  renewal_is_overdue boolean,
  disqualified_because text)
language sql
stable
as $_list_quota_candidates$
  with items as (
    select s.id as subscription_id, s.status, s.ended_at, s.cancel_at,
           i.id as item_id, i.created_at as item_created_at, i.price_id, p.product_id,
           i.current_period_start as item_start, i.current_period_end as item_end,
           array_position(array['trialing', 'active', 'past_due', 'unpaid'], s.status) as status_rank,
           p.metadata ->> 'workflow_step_limit' as price_limit_text,
           r.metadata ->> 'workflow_step_limit' as product_limit_text,
           case when p.id is null then 'unknown' else price_limit.state end as price_limit_state,
           case when r.id is null then 'unknown' else product_limit.state end as product_limit_state,
           -- The first valid source: the price, then the product.
           case when price_limit.state in ('limited', 'unlimited') then price_limit.state
                else product_limit.state end as limit_state,
           case when price_limit.state in ('limited', 'unlimited') then price_limit.step_limit
                else product_limit.step_limit end as step_limit,
           case when price_limit.state in ('limited', 'unlimited') then 'stripe_price_metadata'
                else 'stripe_product_metadata' end as limit_place,
           -- A longer price may give its limit by the month: then the windows are months on the anchor day.
           coalesce(p.metadata ->> 'workflow_step_limit_interval', r.metadata ->> 'workflow_step_limit_interval', '')
             = 'month'
             and (p.recurring_interval = 'year' or p.recurring_interval = 'month' and p.recurring_interval_count > 1)
             as is_by_month,
           s.billing_cycle_anchor, policy.past_due_qualifies, policy.pause_collection_qualifies,
           s.pause_collection is not null
             and coalesce(to_timestamp((s.pause_collection ->> 'resumes_at')::double precision) > p_now, true)
             as is_collection_paused,
           coalesce(s.cancel_at_period_end or s.cancel_at <= i.current_period_end, false) as is_due_to_end,
           i.current_period_end
             + case when s.trial_end = i.current_period_end then policy.trial_renewal_grace
                    else policy.renewal_grace end as presumed_until,
           -- Without an anchor or a known interval, another period as long as the last.
           greatest(coalesce(renewal.period_start, i.current_period_end), i.current_period_end) as renewal_start,
           coalesce(renewal.period_end, i.current_period_end + (i.current_period_end - i.current_period_start))
             as renewal_end
      from stepquota._list_tenant_subscriptions(p_tenant) s
      join stepquota.stripe_subscription_items i on i.subscription_id = s.id and i.deleted_at is null
      left join stepquota.stripe_prices p on p.id = i.price_id and p.deleted_at is null
      left join stepquota.stripe_products r on r.id = p.product_id and r.deleted_at is null
     cross join stepquota.policy policy
     cross join lateral stepquota._read_step_limit(p.metadata ->> 'workflow_step_limit', policy.zero_limit_blocks)
             as price_limit
     cross join lateral stepquota._read_step_limit(r.metadata ->> 'workflow_step_limit', policy.zero_limit_blocks)
             as product_limit
     cross join lateral stepquota._billing_period(
             coalesce(s.billing_cycle_anchor, i.current_period_end), p.recurring_interval,
             p.recurring_interval_count, p_now) as renewal
  ),
  judged as (
    select i.*,
           i.limit_state in ('limited', 'unlimited') as has_valid_limit,
           case
             when i.status_rank is null then format('status %s does not qualify', i.status)
             when i.status = 'past_due' and not i.past_due_qualifies
               then 'its payment is past due, and policy past_due_qualifies is off'
             when i.is_collection_paused and not i.pause_collection_qualifies
               then 'its collection is paused, and policy pause_collection_qualifies is off'
             when i.ended_at <= p_now then format('it ended at %s', stepquota._format_moment(i.ended_at))
             when i.cancel_at <= p_now then format('it was due to end at %s', stepquota._format_moment(i.cancel_at))
             when i.item_start is null or i.item_end is null then 'a bound of its period is missing'
             when p_now < i.item_start
               then format('its period starts only at %s', stepquota._format_moment(i.item_start))
             when p_now < i.item_end then null
             when i.is_due_to_end
               then format('its period ended at %s and it is due to end with it', stepquota._format_moment(i.item_end))
             when p_now >= i.presumed_until
               then format('its period ended at %s and no renewal has arrived until %s',
                 stepquota._format_moment(i.item_end), stepquota._format_moment(i.presumed_until))
             when p_now < i.renewal_end then null
             else format('its period ended at %s and the next one by its length too',
                 stepquota._format_moment(i.item_end))
           end as disqualified_because
      from items i
  ),
  placed as (
    select j.*,
           case when j.disqualified_because is not null then null
                when p_now < j.item_end then 'current' else 'presumed' end as period_state,
           case when j.disqualified_because is null then
             row_number() over (
               partition by j.subscription_id, j.disqualified_because is null
               order by j.has_valid_limit desc,
                        j.has_valid_limit and j.step_limit is null desc,
                        case when j.has_valid_limit then j.step_limit end desc nulls last,
                        case when not j.has_valid_limit then j.item_end end,
                        j.item_created_at nulls last, j.item_id collate "C")
           end as item_rank
      from judged j
  )
  select row_number() over (
           order by p.item_rank nulls last, (p.period_state = 'current') desc nulls last, p.status_rank nulls last,
                    p.has_valid_limit desc,
                    billed.period_start desc nulls last,
                    p.subscription_id collate "C", p.item_id collate "C"),
         p.item_rank, p.subscription_id, p.status, p.item_id, p.price_id, p.product_id, p.period_state,
         -- Both pass over the NULLs of a period that is not cut into months.
         greatest(billed.period_start, month.period_start),
         least(billed.period_end, month.period_end),
         least(billed.period_end, month.period_end,
           case when p.period_state = 'presumed' then p.presumed_until end, p.cancel_at, p.ended_at),
         p.price_limit_text, p.price_limit_state, p.product_limit_text, p.product_limit_state,
         p.has_valid_limit, p.step_limit,
         case when p.limit_state = 'unlimited' then 'unlimited_metadata' else p.limit_place end,
         case when p.status_rank is not null and p_now < p.item_start then p.item_start end,
         coalesce(p.status_rank is not null and not p.is_due_to_end and p_now >= p.item_end
                  and p.disqualified_because is not null, false),
         p.disqualified_because
    from placed p
   cross join lateral (
     select case when p.period_state = 'presumed' then p.renewal_start else p.item_start end as period_start,
            case when p.period_state = 'presumed' then p.renewal_end else p.item_end end as period_end) billed
   cross join lateral stepquota._billing_period(
           case when not p.is_by_month then null
                when p.billing_cycle_anchor <= p_now then p.billing_cycle_anchor
                else billed.period_start end,
           'month', 1, p_now) as month
   order by 1;
$_list_quota_candidates$;

-- Tiers are rows and may be deleted by hand; no foreign key guards the default one (Citus). Raises WQ019.
create or replace function stepquota._refuse_missing_default_tier(p_tenant text, p_default_tier text)
returns void
language plpgsql
stable
as $_refuse_missing_default_tier$
begin
  raise exception using
    errcode = 'WQ019',
    message = 'the default tier does not exist',
    detail = format('Tenant %L has no tier of its own, and policy default_tier is %L.', p_tenant, p_default_tier),
    hint = format('Make it with stepquota.set_tier_limit(%L, a number of steps), or set policy default_tier to one of %s.',
      p_default_tier, coalesce((select string_agg(t.tier, ', ' order by t.tier) from stepquota.tiers t), '(there is no tier)'));
end;
$_refuse_missing_default_tier$;

-- The tenant's quota as its inputs say now, stored nowhere, and what is worth reporting about it:
-- findings is an array of {event_type, level, details}. Takes no locks. SQLSTATEs: WQ019.
create or replace function stepquota._resolve_quota(p_tenant text, p_now timestamptz)
returns stepquota._resolved_quota
language plpgsql
stable
as $_resolve_quota$
declare
  v_policy stepquota.policy;
  v_tenant stepquota.tenants;
  v_plan text;
  v_tier stepquota.tiers;
  v_quota stepquota.workflow_step_quotas;
  v_findings jsonb := '[]'::jsonb;
  v_winner record;
  v_has_winner boolean := false;
  v_next_start timestamptz;
  v_overdue text;
  v_subscription_count bigint := 0;
begin
  select p.* into v_policy from stepquota.policy p;
  v_tenant := stepquota._host_find_tenant(p_tenant);
  v_plan := v_tenant.plan;
  select t.* into v_tier from stepquota.tiers t where t.tier = v_plan;
  if not found then
    select t.* into v_tier from stepquota.tiers t where t.tier = v_policy.default_tier;
    if not found then
      perform stepquota._refuse_missing_default_tier(p_tenant, v_policy.default_tier);
    end if;
    v_findings := v_findings || jsonb_build_object('event_type', 'plan_unknown', 'level', 'warning',
      'details', jsonb_build_object('plan', v_plan, 'default_tier', v_policy.default_tier));
  end if;

  -- The long query is asked once, and only for tenants with a subscription: it takes longer to set up
  -- than all the rest. What qualifies comes first in it.
  select count(*) into v_subscription_count from stepquota._list_tenant_subscriptions(p_tenant) s;
  if v_subscription_count > 0 then
    select c.*, min(c.starts_later_at) over () as next_start,
           min(c.subscription_id) filter (where c.renewal_is_overdue) over () as overdue_id
      into v_winner
      from stepquota._list_quota_candidates(p_tenant, p_now) c
     order by c.candidate_rank
     limit 1;
    v_has_winner := found and v_winner.disqualified_because is null;
    v_next_start := v_winner.next_start;
    v_overdue := v_winner.overdue_id;
  end if;

  v_quota.tenant := p_tenant;
  v_quota.tier := v_tier.tier;
  if v_has_winner then
    v_quota.period_start := v_winner.period_start;
    v_quota.period_end := v_winner.period_end;
    v_quota.period_source := case v_winner.period_state
      when 'presumed' then 'presumed_renewal' else 'stripe_subscription' end;
    v_quota.stripe_subscription_id := v_winner.subscription_id;
    v_quota.stripe_subscription_item_id := v_winner.item_id;
    v_quota.valid_until := least(v_winner.valid_until, v_next_start);
    if v_winner.has_valid_limit then
      v_quota.step_limit := v_winner.step_limit;
      v_quota.limit_source := v_winner.limit_source;
    end if;
    if v_winner.price_limit_state = 'invalid' then
      v_findings := v_findings || stepquota._describe_invalid_limit('price', v_winner.price_id, v_winner.price_limit_text);
    end if;
    if v_winner.product_limit_state = 'invalid' and v_winner.price_limit_state not in ('limited', 'unlimited') then
      v_findings := v_findings
        || stepquota._describe_invalid_limit('product', v_winner.product_id, v_winner.product_limit_text);
    end if;
  else
    select m.period_start, m.period_end into v_quota.period_start, v_quota.period_end
      from stepquota._calendar_month(p_now) m;
    v_quota.period_source := 'fallback_calendar';
    v_quota.valid_until := least(v_quota.period_end, v_next_start);
    v_findings := v_findings || jsonb_build_object('event_type', 'fallback_period', 'level', 'info',
      'details', jsonb_build_object('period_start', v_quota.period_start, 'period_end', v_quota.period_end,
        'subscriptions_looked_at', v_subscription_count));
    if v_overdue is not null then
      v_findings := v_findings || jsonb_build_object('event_type', 'renewal_overdue', 'level', 'error',
        'details', jsonb_build_object('stripe_subscription_id', v_overdue));
    end if;
  end if;
  if v_quota.limit_source is null then
    v_quota.step_limit := v_tier.step_limit;
    v_quota.limit_source := 'tier_default';
  end if;
  select c.granted_units, least(v_quota.valid_until, c.valid_until)
    into v_quota.granted_units, v_quota.valid_until
    from stepquota._count_granted_units(p_tenant, v_quota.period_start, p_now) c;
  v_quota.effective_limit := v_quota.step_limit + v_quota.granted_units;
  v_quota.enforcement := coalesce(v_tenant.enforcement, v_policy.enforcement);
  v_quota.epoch := v_policy.epoch;
  v_quota.refreshed_at := p_now;
  -- A row refreshed a moment after somebody read the clock is fresh for them too.
  v_quota.trusted_from := greatest(v_quota.period_start, p_now - v_policy.staleness);
  v_quota.trusted_until := least(v_quota.valid_until, p_now + v_policy.staleness);
  v_quota.version := 1;
  v_quota.reported := '{}';
  v_quota.lane_count := 1;
  v_quota.carried_count := 0;
  return (v_quota, v_findings)::stepquota._resolved_quota;
end;
$_resolve_quota$;

-- All that the resolution of a tenant's quota reads, as one number: whole rows, of every subscription
-- that may be the tenant's. It says that something was changed, never what that means: _resolve_quota does.
-- Of the paused tenants, or of all that have a stored quota; with the number that was kept with either the
-- last time. Joins and no call a tenant, since up to a million are compared every half a minute.
create or replace function stepquota._list_input_hashes(p_paused_only boolean)
returns table (tenant text, inputs_hash bigint, known_hash bigint)
language sql
stable
as $_list_input_hashes$
  with asked as (
    select t.tenant, t.inputs_hash as known_hash from stepquota.paused_tenants t where p_paused_only
    union all
    select q.tenant, q.inputs_hash from stepquota.workflow_step_quotas q where not p_paused_only
  ),
  subscriptions as (
    select t.tenant, s.id, hash_record_extended(row(s, m), 1) as row_hash
      from asked t
      join stepquota.stripe_customer_tenants m on m.tenant = t.tenant
      join stepquota.stripe_subscriptions s on s.customer_id = m.customer_id
    union all
    select t.tenant, s.id, hash_record_extended(row(s, c, m), 2)
      from asked t
      join stepquota.stripe_customers c on c.metadata_tenant = t.tenant
      join stepquota.stripe_subscriptions s on s.customer_id = c.id
      left join stepquota.stripe_customer_tenants m on m.customer_id = c.id
    union all
    select t.tenant, s.id, hash_record_extended(row(s, c, m), 3)
      from asked t
      join stepquota.stripe_subscriptions s on s.metadata_tenant = t.tenant
      left join stepquota.stripe_customers c on c.id = s.customer_id
      left join stepquota.stripe_customer_tenants m on m.customer_id = s.customer_id
  ),
  mirrored as (
    select u.tenant, bit_xor(hash_record_extended(row(u.row_hash, i, p, r), 0)) as row_hash
      from subscriptions u
      left join stepquota.stripe_subscription_items i on i.subscription_id = u.id
      left join stepquota.stripe_prices p on p.id = i.price_id
      left join stepquota.stripe_products r on r.id = p.product_id
     group by u.tenant
  ),
  granted as (
    select g.tenant, bit_xor(hash_record_extended(row(g.grant_id, g.units, g.expires_at), 0)) as row_hash
      from asked t
      join stepquota.workflow_step_grants g on g.tenant = t.tenant and g.closed_at is null
     group by g.tenant
  ),
  -- Once, and not for each tenant.
  common as materialized (
    select jsonb_hash_extended(to_jsonb(p) - array['epoch', 'confirmed_from', 'confirmed_until'], 0) as policy_hash,
           t.step_limit as default_limit
      from stepquota.policy p
      left join stepquota.tiers t on t.tier = p.default_tier
  )
  select t.tenant, hash_record_extended(row(n, r.step_limit, c.policy_hash, c.default_limit, m.row_hash, g.row_hash), 0),
         t.known_hash
    from asked t
   cross join common c
    left join stepquota._host_list_tenants() n on n.tenant = t.tenant
    left join stepquota.tiers r on r.tier = n.plan
    left join mirrored m on m.tenant = t.tenant
    left join granted g on g.tenant = t.tenant;
$_list_input_hashes$;

create or replace function stepquota._describe_invalid_limit(p_object_type text, p_object_id text, p_value text)
returns jsonb
language sql
immutable
as $_describe_invalid_limit$
  select jsonb_build_object('event_type', 'limit_metadata_invalid', 'level', 'warning',
    'details', jsonb_build_object('object_type', p_object_type, 'object_id', p_object_id,
      'key', 'workflow_step_limit', 'value', p_value,
      'expected', 'a whole number above 0, or unlimited'));
$_describe_invalid_limit$;

-- "Why am I blocked": every object that was looked at, in the order of preference, with the verdict in
-- words. Looks at the inputs of this moment and stores nothing.
-- SQLSTATEs: WQ001.
create or replace function stepquota.explain_workflow_step_quota(p_tenant text)
returns table ("position" integer, object_type text, object_id text, verdict text, reason text, details jsonb)
language plpgsql
stable
-- Definer: callers have no right to read the mirror itself.
security definer
set search_path = pg_catalog, pg_temp
as $explain_workflow_step_quota$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_resolved stepquota._resolved_quota;
  v_quota stepquota.workflow_step_quotas;
  v_candidate record;
  v_plan text;
  v_used bigint;
  v_tenant stepquota.tenants;
  v_paused record;
  v_first boolean := true;
begin
  perform stepquota._check_tenant(p_tenant);
  v_resolved := stepquota._resolve_quota(p_tenant, v_now);
  v_quota := v_resolved.quota;
  v_tenant := stepquota._host_find_tenant(p_tenant);
  v_plan := v_tenant.plan;
  "position" := 0;

  for v_candidate in select c.* from stepquota._list_quota_candidates(p_tenant, v_now) c loop
    -- The item, for its period.
    "position" := "position" + 1;
    object_type := 'subscription_item';
    object_id := v_candidate.item_id;
    verdict := case when v_candidate.disqualified_because is null and v_first then 'won' else 'lost' end;
    reason := case
      when v_candidate.disqualified_because is not null
        then format('Subscription %s: %s.', v_candidate.subscription_id, v_candidate.disqualified_because)
      when v_first and v_candidate.period_state = 'presumed'
        then format('Subscription %s (%s) gives the period: the renewal is presumed from the billing anchor until Stripe''s word arrives.',
          v_candidate.subscription_id, v_candidate.subscription_status)
      when v_first
        then format('Subscription %s (%s) gives the period.', v_candidate.subscription_id, v_candidate.subscription_status)
      when v_candidate.item_rank > 1
        then format('Another item of subscription %s is preferred: a valid limit, the greatest, the oldest item.',
          v_candidate.subscription_id)
      else format('Subscription %s (%s) qualifies, but another is preferred: a period that is running, the status, a valid limit, the newest start.',
          v_candidate.subscription_id, v_candidate.subscription_status)
    end;
    details := jsonb_build_object('stripe_subscription_id', v_candidate.subscription_id,
      'status', v_candidate.subscription_status, 'price', v_candidate.price_id, 'product', v_candidate.product_id,
      'period_start', v_candidate.period_start, 'period_end', v_candidate.period_end);
    return next;

    -- Its price and its product, for the limit.
    "position" := "position" + 1;
    object_type := 'price';
    object_id := v_candidate.price_id;
    verdict := case
      when verdict = 'won' and v_candidate.price_limit_state in ('limited', 'unlimited') then 'won' else 'lost' end;
    reason := stepquota._explain_limit('price', v_candidate.price_limit_state, v_candidate.price_limit_text,
      verdict = 'won', v_first and v_candidate.disqualified_because is null);
    details := jsonb_build_object('workflow_step_limit', v_candidate.price_limit_text);
    return next;
    "position" := "position" + 1;
    object_type := 'product';
    object_id := v_candidate.product_id;
    verdict := case
      when v_first and v_candidate.disqualified_because is null
       and v_candidate.price_limit_state not in ('limited', 'unlimited')
       and v_candidate.product_limit_state in ('limited', 'unlimited') then 'won' else 'lost' end;
    reason := stepquota._explain_limit('product', v_candidate.product_limit_state, v_candidate.product_limit_text,
      verdict = 'won', v_first and v_candidate.disqualified_because is null);
    details := jsonb_build_object('workflow_step_limit', v_candidate.product_limit_text);
    return next;
    v_first := false;
  end loop;

  "position" := "position" + 1;
  object_type := 'calendar_month';
  object_id := null;
  verdict := case when v_quota.period_source = 'fallback_calendar' then 'won' else 'lost' end;
  reason := case when verdict = 'won'
    then 'No subscription qualifies, so the UTC calendar month is the period.'
    else 'A subscription gives the period, so the UTC calendar month is not used.' end;
  details := (select jsonb_build_object('period_start', m.period_start, 'period_end', m.period_end)
                from stepquota._calendar_month(v_now) m);
  return next;

  "position" := "position" + 1;
  object_type := 'tier';
  object_id := v_quota.tier;
  verdict := case when v_quota.limit_source = 'tier_default' then 'won' else 'lost' end;
  reason := case
      when v_plan is distinct from v_quota.tier and v_plan is null
        then format('The tenant has no plan, so the default tier %s stands in. ', v_quota.tier)
      when v_plan is distinct from v_quota.tier
        then format('The tenant''s plan %s is no tier, so the default tier %s stands in. ', quote_literal(v_plan), v_quota.tier)
      else '' end
    || case when verdict = 'won' then 'Neither price nor product of the period has a valid limit, so the tier''s default applies.'
            else 'The limit comes from Stripe''s metadata, so the tier''s default is not used.' end;
  details := (select jsonb_build_object('plan', v_plan, 'step_limit', t.step_limit)
                from stepquota.tiers t where t.tier = v_quota.tier);
  return next;

  for object_id, reason, details in
    select g.grant_id::text,
           format('%s of %s steps on top of the limit, given by %s until %s: %s', g.units - g.spent_units, g.units,
             g.granted_by, coalesce(stepquota._format_moment(g.expires_at), 'the end of the period'), g.reason),
           jsonb_build_object('units', g.units, 'spent_units', g.spent_units, 'granted_at', g.granted_at,
             'expires_at', g.expires_at, 'grant_key', g.grant_key)
      from stepquota.workflow_step_grants g
     where g.tenant = p_tenant and g.closed_at is null
       and case when g.expires_at is null then g.period_start = v_quota.period_start else g.expires_at > v_now end
     order by g.granted_at, g.grant_id
  loop
    "position" := "position" + 1;
    object_type := 'grant';
    verdict := 'used';
    return next;
  end loop;

  v_used := stepquota._sum_usage(p_tenant, v_quota.period_start);
  "position" := "position" + 1;
  object_type := 'usage';
  object_id := p_tenant;
  verdict := 'info';
  reason := case
    when v_quota.effective_limit is null
      then format('%s steps used, unlimited, in the period until %s.', v_used,
        stepquota._format_moment(v_quota.period_end))
    when v_used >= v_quota.effective_limit and v_quota.enforcement <> 'shadow'
      then format('%s of %s steps used, 0 left until %s: further steps are refused, and their runs paused.', v_used,
        v_quota.effective_limit, stepquota._format_moment(v_quota.period_end))
    else format('%s of %s steps used, %s left until %s.', v_used, v_quota.effective_limit,
        stepquota._count_units_left(v_quota.effective_limit, v_used), stepquota._format_moment(v_quota.period_end))
  end;
  details := jsonb_build_object('used_count', v_used, 'effective_limit', v_quota.effective_limit,
    'granted_units', v_quota.granted_units,
    'period_start', v_quota.period_start, 'period_end', v_quota.period_end,
    'period_source', v_quota.period_source, 'limit_source', v_quota.limit_source);
  return next;

  object_type := 'tenant';
  object_id := p_tenant;
  verdict := 'info';
  if v_quota.enforcement = 'shadow' then
    "position" := "position" + 1;
    reason := format('Shadow mode, by %s: steps past the limit are counted and recorded, and none is refused.',
      case when v_tenant.enforcement is null then 'policy' else 'the tenant''s own setting' end);
    details := jsonb_build_object('enforcement', v_quota.enforcement);
    return next;
  end if;
  if v_tenant.suspended_at is not null then
    "position" := "position" + 1;
    reason := format('The tenant is suspended since %s: start_workflow_step starts nothing, whatever is left.',
      stepquota._format_moment(v_tenant.suspended_at));
    details := jsonb_build_object('suspended_at', v_tenant.suspended_at);
    return next;
  end if;
  if v_tenant.held_at is not null then
    "position" := "position" + 1;
    reason := format('%s holds the tenant since %s: start_workflow_step starts nothing, whatever is left.',
      coalesce(v_tenant.held_by, 'Somebody'), stepquota._format_moment(v_tenant.held_at));
    details := jsonb_build_object('held_at', v_tenant.held_at, 'held_by', v_tenant.held_by,
      'held_because', v_tenant.held_because);
    return next;
  end if;

  select w.paused_count, w.paused_since, t.due_at into v_paused
    from stepquota._host_count_quota_waits(p_tenant) w
    left join stepquota.paused_tenants t on t.tenant = p_tenant;
  if v_paused.paused_count > 0 then
    "position" := "position" + 1;
    object_type := 'paused_runs';
    reason := format('%s since %s; %s.',
      case v_paused.paused_count when 1 then '1 run is paused'
        else format('%s runs are paused, the first', v_paused.paused_count) end,
      stepquota._format_moment(v_paused.paused_since),
      case when v_paused.due_at is null then 'an operator holds all of them'
           else format('without a change they are looked at again at %s', stepquota._format_moment(v_paused.due_at)) end);
    details := jsonb_build_object('paused_runs', v_paused.paused_count, 'paused_since', v_paused.paused_since,
      'due_at', v_paused.due_at);
    return next;
  end if;
end;
$explain_workflow_step_quota$;

create or replace function stepquota._explain_limit(
  p_object_type text, p_state text, p_text text, p_won boolean, p_item_won boolean)
returns text
language sql
immutable
as $_explain_limit$
  select case
    when p_won then format('Its workflow_step_limit %s is the limit.', quote_literal(p_text))
    when p_state = 'unknown' then format('The %s is not in the mirror: it has not arrived, or it was deleted.', p_object_type)
    when p_state = 'absent' then format('The %s has no workflow_step_limit.', p_object_type)
    when p_state = 'invalid'
      then format('Its workflow_step_limit %s is not valid (a whole number above 0, or unlimited), so the next source is used.',
        quote_literal(p_text))
    when not p_item_won then format('Its workflow_step_limit %s is not used, since its item does not give the period.',
        quote_literal(p_text))
    else format('Its workflow_step_limit %s is not used: the price''s goes first.', quote_literal(p_text))
  end;
$_explain_limit$;

comment on function stepquota._list_tenant_subscriptions(text) is 'The subscriptions that are a tenant''s.';
comment on function stepquota._list_quota_candidates(text, timestamptz) is
  'Every subscription item of a tenant, best first, with what it would give or why it does not qualify.';
comment on function stepquota._resolve_quota(text, timestamptz) is
  'A tenant''s quota as its inputs say now, and what is worth reporting about it.';
comment on function stepquota._list_input_hashes(boolean) is 'All that the resolution of each tenant''s quota reads, as one number.';
comment on function stepquota._refuse_missing_default_tier(text, text) is 'Raises WQ019: the policy''s default tier is no tier.';
comment on function stepquota._describe_invalid_limit(text, text, text) is 'The finding about a limit that cannot be read.';
comment on function stepquota._explain_limit(text, text, text, boolean, boolean) is 'A sentence about one source of a limit.';
comment on function stepquota.explain_workflow_step_quota(text) is
  'Why a tenant has the quota it has. One row an object, in order of preference: position, object_type (subscription_item, price, product, calendar_month, tier, grant, usage, tenant, paused_runs), object_id, verdict (won, lost, used, info), reason in words, details. WQ001 for a tenant that cannot be one.';
