-- What pgTAP files share, in the schema tap: the clock, tenants with a limit, paused runs, objects as
-- Stripe answers them, and errors with all their parts.

-- The test clock of this session.
create function tap.set_clock(p_now text) returns void language sql as $set_clock$
  select set_config('stepquota.now', p_now, false);
$set_clock$;

-- A limit of the tenant's own, by a tier of its own; NULL is unlimited.
create function tap.give_limit(p_tenant text, p_limit bigint) returns bigint language sql as $give_limit$
  select stepquota.set_tier_limit('tier of ' || p_tenant, p_limit);
  select (stepquota.set_tenant_plan(p_tenant, 'tier of ' || p_tenant)).effective_limit;
$give_limit$;

-- A run of the tenant that has used some units, and ended.
create function tap.use_units(p_tenant text, p_units integer, p_run_id text default 'user') returns void
language plpgsql as $use_units$
begin
  perform stepquota.register_workflow_run(p_tenant, p_run_id);
  for v_unit in 1 .. p_units loop
    if (stepquota.start_workflow_step(p_tenant, p_run_id, format('root.steps[%s]', v_unit))).outcome <> 'started' then
      raise exception 'unit % of % could not be used', v_unit, p_tenant;
    end if;
  end loop;
  perform stepquota.finish_workflow_run(p_tenant, p_run_id, 'SUCCEEDED');
end;
$use_units$;

-- A run that is paused by quota at its first step; answers the wait.
create function tap.pause_run(p_tenant text, p_run_id text, p_node_path text default 'root.steps[0]') returns uuid
language plpgsql as $pause_run$
declare
  v_start stepquota.workflow_step_start;
begin
  perform stepquota.register_workflow_run(p_tenant, p_run_id);
  v_start := stepquota.start_workflow_step(p_tenant, p_run_id, p_node_path);
  if v_start.outcome <> 'quota_paused' then
    raise exception 'run % of % was not paused: %', p_run_id, p_tenant, v_start.outcome;
  end if;
  return v_start.wait_id;
end;
$pause_run$;

-- Status and node path of a run.
create function tap.run_state(p_tenant text, p_run_id text) returns text language sql as $run_state$
  select concat_ws(' at ', r.status, r.node_path) from stepquota.workflow_runs r
   where r.tenant = p_tenant and r.run_id = p_run_id;
$run_state$;

create function tap.used(p_tenant text) returns bigint language sql as $used$
  select coalesce(sum(l.used_count), 0)::bigint from stepquota.workflow_step_usage_lanes l where l.tenant = p_tenant;
$used$;

create function tap.count_events(p_tenant text, p_event_type text) returns bigint language sql as $count_events$
  select count(*) from stepquota.quota_events e where e.tenant = p_tenant and e.event_type = p_event_type;
$count_events$;

-- Period, limit and sources in one line.
create function tap.quota_of(p_tenant text) returns text language sql as $quota_of$
  select format('%s..%s %s, %s %s',
           to_char(q.period_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'),
           to_char(q.period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'), q.period_source,
           coalesce(q.effective_limit::text, 'unlimited'), q.limit_source)
    from stepquota.resolve_workflow_step_quota(p_tenant) q;
$quota_of$;

-- Stripe -------------------------------------------------------------------------------------------

create function tap.seconds(p_moment timestamptz) returns bigint language sql as $seconds$
  select extract(epoch from p_moment)::bigint;
$seconds$;

create function tap.metadata(p_limit jsonb) returns jsonb language sql as $metadata$
  select case when p_limit is null then '{}'::jsonb else jsonb_build_object('workflow_step_limit', p_limit) end;
$metadata$;

create function tap.product(p_id text, p_limit jsonb default null) returns jsonb language sql as $product$
  select jsonb_build_object('id', p_id, 'object', 'product', 'active', true, 'name', 'Plan ' || p_id,
    'livemode', false, 'created', 1700000000, 'metadata', tap.metadata(p_limit));
$product$;

create function tap.price(
  p_id text, p_product jsonb, p_limit jsonb default null, p_interval text default 'month', p_count integer default 1)
returns jsonb language sql as $price$
  select jsonb_build_object('id', p_id, 'object', 'price', 'active', true, 'product', p_product, 'livemode', false,
    'created', 1700000000, 'metadata', tap.metadata(p_limit),
    'recurring', case when p_interval is not null
      then jsonb_build_object('interval', p_interval, 'interval_count', p_count) end);
$price$;

create function tap.item(
  p_id text, p_price jsonb, p_start timestamptz default '2026-04-01Z', p_end timestamptz default '2026-05-01Z',
  p_created timestamptz default '2025-01-01Z', p_quantity integer default 1)
returns jsonb language sql as $item$
  select jsonb_build_object('id', p_id, 'object', 'subscription_item', 'price', p_price, 'quantity', p_quantity,
    'created', tap.seconds(p_created), 'metadata', '{}'::jsonb,
    'current_period_start', tap.seconds(p_start), 'current_period_end', tap.seconds(p_end));
$item$;

-- p_changes replaces fields; moments in it are texts under the names that hold moments.
create function tap.subscription(
  p_id text, p_tenant text, p_items jsonb, p_status text default 'active', p_changes jsonb default '{}')
returns jsonb language sql as $subscription$
  select jsonb_build_object('id', p_id, 'object', 'subscription', 'status', p_status, 'livemode', false,
    'customer', jsonb_build_object('id', 'cus_' || p_tenant, 'object', 'customer', 'livemode', false,
      'metadata', jsonb_build_object('tenant', p_tenant)),
    'created', 1700000000, 'metadata', '{}'::jsonb, 'cancel_at_period_end', false,
    'billing_cycle_anchor', p_items -> 0 -> 'current_period_start',
    'items', jsonb_build_object('object', 'list', 'has_more', false, 'data', p_items))
    || coalesce((
      select jsonb_object_agg(c.key, case
               when c.key in ('billing_cycle_anchor', 'cancel_at', 'canceled_at', 'ended_at', 'trial_start', 'trial_end')
                and jsonb_typeof(c.value) = 'string'
               then to_jsonb(tap.seconds((c.value #>> '{}')::timestamptz)) else c.value end)
        from jsonb_each(p_changes) c), '{}');
$subscription$;

-- As API versions before 2025-03-31.basil answer it: the period is the subscription's.
create function tap.older(p_subscription jsonb) returns jsonb language sql as $older$
  select p_subscription
    || jsonb_build_object('current_period_start', p_subscription #> '{items,data,0,current_period_start}',
         'current_period_end', p_subscription #> '{items,data,0,current_period_end}')
    || jsonb_build_object('items', (p_subscription -> 'items') || jsonb_build_object('data', (
         select jsonb_agg(i.value - 'current_period_start' - 'current_period_end')
           from jsonb_array_elements(p_subscription #> '{items,data}') i)));
$older$;

-- Into the mirror, each as if asked for after the one before.
create sequence tap.fetches;
create function tap.apply(variadic p_objects jsonb[]) returns void language plpgsql as $apply$
declare
  v_object jsonb;
  v_fetched_at timestamptz;
begin
  foreach v_object in array p_objects loop
    v_fetched_at := timestamptz '2026-01-01Z' + nextval('tap.fetches') * interval '1 second';
    perform stepquota.apply_stripe_object(v_object, v_fetched_at);
  end loop;
end;
$apply$;

-- A subscription of one item with its own price and product, written to the mirror.
create function tap.subscribe(
  p_tenant text, p_price_limit jsonb default null, p_product_limit jsonb default null, p_status text default 'active',
  p_start timestamptz default '2026-04-01Z', p_end timestamptz default '2026-05-01Z', p_name text default 'main',
  p_changes jsonb default '{}', p_interval text default 'month', p_count integer default 1)
returns void language sql as $subscribe$
  select tap.apply(tap.subscription('sub_' || p_name || '_' || p_tenant, p_tenant,
    jsonb_build_array(tap.item('si_' || p_name || '_' || p_tenant,
      tap.price('price_' || p_name || '_' || p_tenant,
        tap.product('prod_' || p_name || '_' || p_tenant, p_product_limit), p_price_limit, p_interval, p_count),
      p_start, p_end)), p_status, p_changes));
$subscribe$;

-- Events -------------------------------------------------------------------------------------------

-- Whether a value of an event's details is of a declared type.
create function tap.is_of_type(p_value jsonb, p_type text) returns boolean language sql as $is_of_type$
  select case
    when p_type like '% or null' and p_value = 'null' then true
    else case replace(p_type, ' or null', '')
      when 'text' then jsonb_typeof(p_value) = 'string'
      when 'integer' then jsonb_typeof(p_value) = 'number' and p_value::text ~ '^-?[0-9]+$'
      when 'boolean' then jsonb_typeof(p_value) = 'boolean'
      when 'moment' then jsonb_typeof(p_value) = 'string' and p_value #>> '{}' ~ '^\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d$'
      when 'uuid' then jsonb_typeof(p_value) = 'string' and p_value #>> '{}' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      when 'array' then jsonb_typeof(p_value) = 'array'
      when 'object' then jsonb_typeof(p_value) = 'object'
      when 'any' then true
    end
  end;
$is_of_type$;

-- Events that are not as their type declares them: every file is checked for these when it ends.
create function tap.find_event_problems() returns setof text language sql as $find_event_problems$
  select format('event %s is of no declared type', e.event_type)
    from stepquota.quota_events e
   where not exists (select 1 from stepquota.quota_event_types t where t.event_type = e.event_type)
  union
  select format('event %s has level %s and is declared with %s', e.event_type, e.level, t.level)
    from stepquota.quota_events e join stepquota.quota_event_types t using (event_type)
   where e.level <> t.level
  union
  select format('event %s has the detail %s: %s, declared as %s', e.event_type, d.key, d.value, coalesce(f.value, 'nothing'))
    from stepquota.quota_events e join stepquota.quota_event_types t using (event_type)
   cross join lateral jsonb_each(e.details) d
    left join lateral jsonb_each_text(t.details) f on rtrim(f.key, '?') = d.key
   where tap.is_of_type(d.value, f.value) is not true
  union
  select format('event %s lacks the detail %s', e.event_type, f.key)
    from stepquota.quota_events e join stepquota.quota_event_types t using (event_type)
   cross join lateral jsonb_object_keys(t.details) f (key)
   where f.key !~ '[?]$' and not e.details ? f.key;
$find_event_problems$;

-- Errors -------------------------------------------------------------------------------------------

-- How many rows each table has, to see that nothing was written.
create function tap.count_rows() returns jsonb language plpgsql as $count_rows$
declare
  v_table regclass;
  v_count bigint;
  v_counts jsonb := '{}';
begin
  for v_table in
    select c.oid from pg_catalog.pg_class c
     where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
     order by c.relname
  loop
    execute format('select count(*) from %s', v_table) into v_count;
    v_counts := v_counts || jsonb_build_object(v_table::text, v_count);
  end loop;
  return v_counts;
end;
$count_rows$;

-- Passes if the statement raises that SQLSTATE, with DETAIL and HINT, and has written nothing.
create function tap.refuses(p_statement text, p_sqlstate text, p_description text default null) returns text
language plpgsql as $refuses$
declare
  v_before jsonb := tap.count_rows();
  v_sqlstate text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  begin
    execute p_statement;
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text,
      v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  end;
  return tap.ok(
    v_sqlstate is not distinct from p_sqlstate and v_detail <> '' and v_hint <> '' and tap.count_rows() = v_before,
    coalesce(p_description, p_statement))
    || case when v_sqlstate is distinct from p_sqlstate or v_detail = '' or v_hint = ''
         then E'\n' || tap.diag(format('wanted %s; got %s: %s, detail %L, hint %L', p_sqlstate,
           coalesce(v_sqlstate, 'no error'), v_message, v_detail, v_hint)) else '' end;
end;
$refuses$;
