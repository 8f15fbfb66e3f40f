-- What operators change: plans, tier limits, policy. Each change is a row of quota_events.

-- Locks: the tenant's host row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.set_tenant_plan(p_tenant text, p_plan text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_tenant_plan$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  if p_plan is not null then
    perform stepquota._check_known_tier('p_plan', p_plan);
  end if;
  v_tenant := stepquota._host_find_tenant(p_tenant);
  if v_tenant.tenant is null or v_tenant.plan is distinct from p_plan then
    perform stepquota._host_set_tenant_plan(p_tenant, p_plan, v_now);
    perform stepquota._record_event(p_tenant, 'plan_changed', 'info', null,
      jsonb_build_object('from', v_tenant.plan, 'to', p_plan, 'by', session_user), v_now);
  end if;
  perform stepquota._refresh_and_resume(array[p_tenant], 'plan', v_now);
  return stepquota._summarize_quota(
    (select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
end;
$set_tenant_plan$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_known_tier(p_parameter text, p_tier text)
returns void
language plpgsql
stable
as $_check_known_tier$
begin
  if not exists (select 1 from stepquota.tiers t where t.tier = p_tier) then
    perform stepquota._refuse_argument(p_parameter, p_tier, 'the name of a tier',
      format('Tiers are %s; set_tier_limit makes another.',
        (select string_agg(t.tier, ', ' order by t.tier) from stepquota.tiers t)));
  end if;
end;
$_check_known_tier$;

-- A tier's limit concerns all its tenants: their stored quotas become stale, and the scan resumes.
-- Within policy's bounds the paused ones go on at once.
-- Locks: the tier; the policy row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.set_tier_limit(p_tier text, p_step_limit bigint)
returns table (tier text, step_limit bigint, previous_step_limit bigint, changed boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_tier_limit$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_was_known boolean;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_tier', p_tier);
  if p_step_limit < 1 then
    perform stepquota._refuse_argument('p_step_limit', p_step_limit::text, 'a number above 0, or NULL for unlimited',
      'Suspend a tenant to stop all of its steps.');
  end if;
  select t.step_limit into previous_step_limit from stepquota.tiers t where t.tier = p_tier for no key update;
  v_was_known := found;
  tier := p_tier;
  step_limit := p_step_limit;
  changed := not v_was_known or previous_step_limit is distinct from p_step_limit;
  if changed then
    insert into stepquota.tiers (tier, step_limit) values (p_tier, p_step_limit)
    on conflict (tier) do update set step_limit = excluded.step_limit;
    perform stepquota._record_event('', 'tier_limit_changed', 'info', null,
      jsonb_build_object('tier', p_tier, 'from', previous_step_limit, 'to', p_step_limit,
        'was_known', v_was_known, 'by', session_user), v_now);
    perform stepquota._apply_to_all_tenants('tier limit', v_now);
  end if;
  return next;
end;
$set_tier_limit$;

-- For a change that may concern every tenant: all stored quotas stale, and of the paused tenants as many
-- as policy allows resumed in this transaction, the others due.
-- Locks: the policy row, then as _refresh_and_resume.
create or replace function stepquota._apply_to_all_tenants(p_by text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_apply_to_all_tenants$
begin
  perform stepquota._make_all_quotas_stale();
  perform stepquota._refresh_and_resume(array(select t.tenant from stepquota.paused_tenants t), p_by, p_now);
end;
$_apply_to_all_tenants$;

-- Sets one policy from its text form. The test clock and the epoch are not an operator's to set.
-- Locks: the policy row, then as _apply_to_all_tenants. SQLSTATEs: WQ001, WQ014, WQ015.
create or replace function stepquota.set_policy(p_name text, p_value text)
returns table (name text, value text, previous_value text, changed boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_policy$
declare
  v_now timestamptz := stepquota._now();
  v_names text[];
  v_message text;
  v_constraint text;
begin
  perform stepquota._check_unbound();
  if p_value is null then
    perform stepquota._refuse_argument('p_value', null, 'a text', 'Pass the value as text, for instance ''30 seconds''.');
  end if;
  v_names := array(
    select a.attname::text from pg_attribute a
     where a.attrelid = 'stepquota.policy'::regclass and a.attnum > 0 and not a.attisdropped
       and a.attname not in ('only_row', 'epoch', 'confirmed_from', 'confirmed_until', 'allow_test_clock', 'bound_roles')
     order by 1);
  if p_name is null or p_name <> all (v_names) then
    raise exception using
      errcode = 'WQ014',
      message = 'there is no such policy',
      detail = format('p_name is %s.', stepquota._quote_shortly(p_name)),
      hint = format('Policies are %s.', array_to_string(v_names, ', '));
  end if;
  if p_name = 'default_tier' then
    perform stepquota._check_known_tier('p_value', p_value);
  end if;
  execute format('select p.%I::text from stepquota.policy p for no key update', p_name) into previous_value;
  begin
    execute format('update stepquota.policy set %I = $1::%s returning %1$I::text', p_name,
      (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
        where a.attrelid = 'stepquota.policy'::regclass and a.attname = p_name))
      using p_value into value;
  exception when data_exception or check_violation then
    get stacked diagnostics v_message = message_text, v_constraint = constraint_name;
    -- Instead of the constraint's name, what it asks for.
    v_message := coalesce((
      select 'it must be so that ' || pg_get_expr(c.conbin, c.conrelid) from pg_constraint c
       where c.conrelid = 'stepquota.policy'::regclass and c.conname = v_constraint), v_message);
    raise exception using
      errcode = 'WQ015',
      message = format('the value does not fit policy %s', p_name),
      detail = format('p_value is %s: %s.', stepquota._quote_shortly(p_value), left(v_message, 200)),
      hint = format('It was left at %L.', previous_value);
  end;
  name := p_name;
  changed := value is distinct from previous_value;
  if changed then
    perform stepquota._record_event('', 'policy_changed', 'info', null,
      jsonb_build_object('name', p_name, 'from', previous_value, 'to', value, 'by', session_user), v_now);
    if p_name = 'tenant_metadata_key' then
      perform stepquota._read_metadata_tenants();
    end if;
    perform stepquota._apply_to_all_tenants('policy', v_now);
  end if;
  return next;
end;
$set_policy$;

comment on function stepquota._check_known_tier(text, text) is 'Raises WQ001 unless the tier exists.';
comment on function stepquota._apply_to_all_tenants(text, timestamptz) is 'Makes all quotas stale and resumes what can go on, within policy''s bounds.';
comment on function stepquota.set_tenant_plan(text, text) is
  'Sets the tenant''s plan, a tier (NULL: none), making the tenant if needed; resumes what can go on in the same transaction; answers the summary. WQ001 for a plan that is no tier.';
comment on function stepquota.set_tier_limit(text, bigint) is
  'Sets a tier''s default limit in steps a period (NULL: unlimited), making the tier if needed. All its tenants get it with their next step. Answers tier, step_limit, previous_step_limit, changed. WQ001 bad arguments.';
comment on function stepquota.set_policy(text, text) is
  'Sets a policy (a column of stepquota.policy) from text; resumes what can go on. Answers name, value, previous_value, changed. WQ001 a NULL value or a tier that does not exist, WQ014 unknown policy, WQ015 a value that does not fit.';
