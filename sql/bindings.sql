-- Roles that are bound to one tenant: who they are, and what they are kept from.
--
-- Who calls is told by two names: the login (session_user) and the role that was set (the setting role).
-- current_user would be the owner, inside of a definer function. Both count, so that neither SET ROLE nor
-- a login that many share gets around a binding. Who is a member of a bound role is bound as it is: the
-- rights that are used may have come from there, and before PostgreSQL 16 a login can lend itself to
-- another. Superusers and those who have the owner's rights are not bound as logins: nothing here could
-- hold them.
--
-- A role may also be bound to the tenant that its session names, in the setting stepquota.tenant: for a
-- program that serves many tenants and knows for whom each of its transactions is. Its binding is stored
-- with an empty tenant; while the setting is empty it is bound to none.
--
-- While no role is bound, policy.bound_roles is NULL, which whoever reads the policy row sees at once.

-- The tenants that a role is bound to, by itself or as a member of other roles; NULL if it is to none.
create or replace function stepquota._list_tenants_of_role(p_role name)
returns text[]
language plpgsql
stable
as $_list_tenants_of_role$
declare
  v_roles oid[];
  v_more oid[] := array[to_regrole(quote_ident(p_role))::oid];
  v_set text;
  v_tenants text[];
begin
  while v_more <> '{}' loop
    v_roles := v_roles || v_more;
    v_more := array(
      select distinct m.roleid from pg_auth_members m where m.member = any (v_more) and m.roleid <> all (v_roles));
  end loop;
  if not exists (
    select 1 from stepquota.tenant_role_bindings b
     where b.role_oid = any (v_roles)
        or b.role_name = any (array(select pg_get_userbyid(r.role_oid)::text from unnest(v_roles) as r (role_oid)))
  ) or (select r.rolsuper from pg_roles r where r.rolname = p_role) then
    return null;
  end if;
  -- Not by a membership that allows no more than to give the role to others.
  v_set := case when current_setting('server_version_num')::integer < 160000 then 'MEMBER' else 'SET' end;
  v_tenants := array(
    select distinct case when b.tenant = '' then coalesce(current_setting('stepquota.tenant', true), '') else b.tenant end
      from stepquota.tenant_role_bindings b
     cross join lateral (
       select coalesce(to_regrole(quote_ident(b.role_name))::oid, b.role_oid) as role_oid) o
     where (b.role_oid = any (v_roles)
            or b.role_name = any (array(select pg_get_userbyid(r.role_oid)::text from unnest(v_roles) as r (role_oid))))
       and o.role_oid = any (v_roles)
       and (pg_has_role(p_role, o.role_oid, 'USAGE') or pg_has_role(p_role, o.role_oid, v_set)));
  if v_tenants = '{}' then
    return null;
  end if;
  -- Rows of all tenants have an empty one.
  return array_remove(v_tenants, '');
end;
$_list_tenants_of_role$;

-- The tenants that the caller may act for, at least the one that is asked about if he may for it; NULL is
-- all of them.
--
-- Mostly few roles are bound, and the caller is a member of none: that PostgreSQL answers from its cache.
-- Or the role that he has set, or else his login, is bound to the tenant itself: a login that set it is a
-- member of it.
create or replace function stepquota._list_callers_tenants(p_bound_roles text[], p_tenant text default null)
returns text[]
language plpgsql
stable
as $_list_callers_tenants$
declare
  v_role text := current_setting('role');
  v_bound_role text;
  v_is_suspected boolean := cardinality(p_bound_roles) > 64;
  v_of_login text[];
  v_of_role text[];
begin
  if v_role = 'none' then
    v_role := session_user;
  end if;
  if not v_is_suspected then
    foreach v_bound_role in array p_bound_roles loop
      -- One that is no more may have been renamed.
      if pg_has_role(session_user, to_regrole(v_bound_role), 'MEMBER') is not false
         or v_role <> session_user and pg_has_role(v_role, to_regrole(v_bound_role), 'MEMBER') is not false then
        v_is_suspected := true;
        exit;
      end if;
    end loop;
    if not v_is_suspected then
      return null;
    end if;
  end if;
  if p_tenant <> '' and exists (
    select 1 from stepquota.tenant_role_bindings b where b.tenant = p_tenant and b.role_name = v_role
  ) then
    return array[p_tenant];
  end if;
  v_of_login := stepquota._list_tenants_of_role(session_user);
  if v_of_login is not null and pg_has_role(session_user, current_user, 'USAGE') then
    v_of_login := null;
  end if;
  if v_role <> session_user then
    v_of_role := stepquota._list_tenants_of_role(v_role);
  end if;
  return case
    when v_of_login is null then v_of_role
    when v_of_role is null then v_of_login
    else array(select unnest(v_of_login) intersect select unnest(v_of_role)) end;
end;
$_list_callers_tenants$;

-- Whether the caller may act for the tenant. For statements that read the policy row anyway: only where
-- it has bound roles, this is to be asked.
create or replace function stepquota._may_act_for(p_tenant text, p_bound_roles text[])
returns boolean
language plpgsql
stable
as $_may_act_for$
declare
  v_tenants constant text[] := stepquota._list_callers_tenants(p_bound_roles, p_tenant);
begin
  return v_tenants is null or coalesce(p_tenant = any (v_tenants), false);
end;
$_may_act_for$;

-- The one place that words this error. SQLSTATEs: WQ050, always.
create or replace function stepquota._refuse_bound_caller(p_wish text)
returns void
language plpgsql
stable
as $_refuse_bound_caller$
begin
  raise exception using
    errcode = 'WQ050',
    message = 'the role is bound to a tenant',
    detail = format('Login %L, role %L: bound to %s. The call is for %s.', session_user,
      coalesce(nullif(current_setting('role'), 'none'), session_user),
      coalesce((select string_agg(quote_literal(t.tenant), ', ' order by t.tenant)
                  from stepquota.policy p
                 cross join lateral unnest(stepquota._list_callers_tenants(p.bound_roles)) as t (tenant)),
        'no tenant: the session names none, or what it names and what the role is bound to have none in common'),
      p_wish),
    hint = 'A bound role acts for its own tenant, and does not decide about its limits: see docs/security.md, or ask an operator.';
end;
$_refuse_bound_caller$;

-- For functions that concern all tenants, and for those that decide about one: not for bound roles.
-- SQLSTATEs: WQ050.
create or replace function stepquota._check_unbound()
returns void
language plpgsql
stable
as $_check_unbound$
begin
  if exists (
    select 1 from stepquota.policy p
     where p.bound_roles is not null and stepquota._list_callers_tenants(p.bound_roles) is not null
  ) then
    perform stepquota._refuse_bound_caller('something that bound roles may not do');
  end if;
end;
$_check_unbound$;

-- The tenant that a call without one is for: the caller's own, or NULL for all. SQLSTATEs: WQ050.
create or replace function stepquota._get_callers_tenant()
returns text
language plpgsql
stable
as $_get_callers_tenant$
declare
  v_tenants text[];
begin
  select stepquota._list_callers_tenants(p.bound_roles) into v_tenants
    from stepquota.policy p
   where p.bound_roles is not null;
  if cardinality(v_tenants) <> 1 then
    perform stepquota._refuse_bound_caller('all tenants, and must be for one of them');
  end if;
  return v_tenants[1];
end;
$_get_callers_tenant$;

-- For row-level security: the tenants whose rows the reader may see; NULL is all. p_reader is the role whose
-- rights read, which a definer function of somebody else makes another one than the caller.
-- SQLSTATEs: none.
create or replace function stepquota.list_visible_tenants(p_reader text)
returns text[]
language plpgsql
stable
-- Definer: readers of a table need no right to the bindings.
security definer
set search_path = pg_catalog, pg_temp
as $list_visible_tenants$
declare
  v_bound_roles text[];
  v_of_caller text[];
  v_of_reader text[];
begin
  select p.bound_roles into v_bound_roles from stepquota.policy p;
  if v_bound_roles is null then
    return null;
  end if;
  v_of_caller := stepquota._list_callers_tenants(v_bound_roles);
  -- Nearly always one of those who were just looked at.
  if p_reader <> session_user and p_reader <> current_setting('role') then
    v_of_reader := stepquota._list_tenants_of_role(p_reader);
  end if;
  return case
    when v_of_caller is null then v_of_reader
    when v_of_reader is null then v_of_caller
    else array(select unnest(v_of_caller) intersect select unnest(v_of_reader)) end;
end;
$list_visible_tenants$;

-- What keeps a role from being bound; NULL if nothing does.
create or replace function stepquota._find_binding_problem(p_role text)
returns text
language plpgsql
stable
as $_find_binding_problem$
declare
  v_role pg_roles;
begin
  select r.* into v_role from pg_roles r where r.rolname = p_role;
  return case
    when v_role.rolname is null then 'there is no such role'
    when v_role.rolsuper then 'it is a superuser, whom nothing holds'
    when v_role.rolbypassrls then 'it bypasses row-level security'
    when pg_has_role(p_role, current_user, 'USAGE') or pg_has_role(p_role, current_user, 'MEMBER')
      then 'it has the rights of stepquota''s owner'
    when p_role in ('stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer')
      then 'it is one of the four roles that others are members of' end;
end;
$_find_binding_problem$;

-- From the commit on, who has the role sees and does only what is of the tenant.
-- Locks: the policy row. SQLSTATEs: WQ001, WQ050, WQ051.
create or replace function stepquota.bind_tenant_role(p_role text, p_tenant text)
returns table (role text, tenant text, bound_at timestamptz, changed boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $bind_tenant_role$
begin
  perform stepquota._check_tenant(p_tenant), stepquota._check_unbound(), stepquota._check_name('p_role', p_role);
  return query select b.* from stepquota._bind_role(p_role, p_tenant) b;
end;
$bind_tenant_role$;

-- The same for the tenant that each session of the role names in stepquota.tenant.
-- Locks: the policy row. SQLSTATEs: WQ001, WQ050, WQ051.
create or replace function stepquota.bind_session_role(p_role text)
returns table (role text, bound_at timestamptz, changed boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $bind_session_role$
begin
  perform stepquota._check_unbound(), stepquota._check_name('p_role', p_role);
  return query select b.role, b.bound_at, b.changed from stepquota._bind_role(p_role, '') b;
end;
$bind_session_role$;

-- Locks: the policy row. SQLSTATEs: WQ051.
create or replace function stepquota._bind_role(p_role text, p_tenant text)
returns table (role text, tenant text, bound_at timestamptz, changed boolean)
language plpgsql
volatile
as $_bind_role$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_problem text;
  v_known stepquota.tenant_role_bindings;
begin
  perform 1 from stepquota.policy p for no key update;
  select b.* into v_known from stepquota.tenant_role_bindings b where b.role_name = p_role;
  v_problem := case when v_known.tenant <> p_tenant
                    then format('it is bound to %s: unbind it first', case when v_known.tenant = ''
                           then 'the tenant that its session names' else quote_literal(v_known.tenant) end)
                    else stepquota._find_binding_problem(p_role) end;
  if v_problem is not null then
    raise exception using
      errcode = 'WQ051',
      message = 'the role cannot be bound',
      detail = format('Role %L%s: %s.', p_role, case when p_tenant <> '' then format(', tenant %L', p_tenant) end, v_problem),
      hint = 'Bind a role that exists, is no superuser, and is a member of one of the four roles at most.';
  end if;
  changed := v_known.tenant is null;
  if changed then
    insert into stepquota.tenant_role_bindings (tenant, role_name, role_oid, bound_at, bound_by)
    values (p_tenant, p_role, quote_ident(p_role)::regrole, v_now, session_user);
    perform stepquota._record_event(p_tenant, 'role_bound', 'info', null,
      jsonb_build_object('role', p_role, 'by', session_user), v_now);
  end if;
  perform stepquota._note_bound_roles();
  role := p_role;
  tenant := p_tenant;
  bound_at := coalesce(v_known.bound_at, v_now);
  return next;
end;
$_bind_role$;

-- Nothing holds the role any more. That it exists no longer is no matter.
-- Locks: the policy row. SQLSTATEs: WQ001, WQ050.
create or replace function stepquota.unbind_tenant_role(p_role text)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $unbind_tenant_role$
declare
  v_now timestamptz := stepquota._now();
  v_tenant text;
begin
  perform stepquota._check_unbound(), stepquota._check_name('p_role', p_role);
  perform 1 from stepquota.policy p for no key update;
  select b.tenant into v_tenant from stepquota.tenant_role_bindings b where b.role_name = p_role;
  if v_tenant is null then
    return false;
  end if;
  delete from stepquota.tenant_role_bindings b where b.tenant = v_tenant and b.role_name = p_role;
  perform stepquota._record_event(v_tenant, 'role_unbound', 'info', null,
    jsonb_build_object('role', p_role, 'by', session_user), v_now);
  perform stepquota._note_bound_roles();
  return true;
end;
$unbind_tenant_role$;

-- Locks: the caller holds the policy row.
create or replace function stepquota._note_bound_roles()
returns void
language plpgsql
volatile
as $_note_bound_roles$
declare
  v_roles constant text[] := array(
    select quote_ident(b.role_name) from stepquota.tenant_role_bindings b order by b.role_name);
begin
  update stepquota.policy p set bound_roles = nullif(v_roles, '{}')
   where p.bound_roles is distinct from nullif(v_roles, '{}');
end;
$_note_bound_roles$;

-- SQLSTATEs: WQ050.
create or replace function stepquota.list_tenant_role_bindings()
returns table (role text, tenant text, bound_at timestamptz, bound_by text, problem text)
language plpgsql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_tenant_role_bindings$
begin
  perform stepquota._check_unbound();
  return query
    select b.role_name, b.tenant, b.bound_at, b.bound_by,
           case when to_regrole(quote_ident(b.role_name)) is not null then stepquota._find_binding_problem(b.role_name)
                when exists (select 1 from pg_roles r where r.oid = b.role_oid)
                  then format('it is called %I now, and is bound still', pg_get_userbyid(b.role_oid))
                else 'there is no such role' end
      from stepquota.tenant_role_bindings b
     order by b.role_name;
end;
$list_tenant_role_bindings$;

comment on function stepquota._list_tenants_of_role(name) is 'The tenants that a role is bound to; NULL if to none.';
comment on function stepquota._list_callers_tenants(text[], text) is 'The tenants that the caller may act for; NULL is all.';
comment on function stepquota._may_act_for(text, text[]) is 'Whether the caller may act for the tenant.';
comment on function stepquota._refuse_bound_caller(text) is 'Raises WQ050.';
comment on function stepquota._check_unbound() is 'Raises WQ050 for a caller who is bound to a tenant.';
comment on function stepquota._get_callers_tenant() is 'The tenant that the caller is bound to; NULL if to none.';
comment on function stepquota._find_binding_problem(text) is 'What keeps a role from being bound.';
comment on function stepquota._bind_role(text, text) is 'Binds a role to a tenant; to an empty one: to what its sessions name.';
comment on function stepquota._note_bound_roles() is 'Repeats the bound roles in the policy row.';
comment on function stepquota.list_visible_tenants(text) is
  'The tenants whose rows may be read with the rights of a role in this session, as row-level security asks; NULL is all of them. No errors.';
comment on function stepquota.bind_tenant_role(text, text) is
  'Binds a role to a tenant: it, and whoever is a member of it, sees and does only what is of that tenant. Answers role, tenant, bound_at, changed (false if it was bound so before). WQ001 bad arguments, WQ050 for a caller who is bound, WQ051 for a role that does not exist, cannot be held or is bound to another tenant.';
comment on function stepquota.bind_session_role(text) is
  'Binds a role to the tenant that its session names in the setting stepquota.tenant (set_config(''stepquota.tenant'', tenant, true) in each transaction); while that is empty it sees and does nothing. For a program that serves many tenants and knows who asks. Answers role, bound_at, changed. WQ001 bad arguments, WQ050 for a caller who is bound, WQ051 for a role that does not exist, cannot be held or is bound to a tenant.';
comment on function stepquota.unbind_tenant_role(text) is
  'Takes a role''s binding away; false if there was none. WQ001 bad arguments, WQ050 for a caller who is bound.';
comment on function stepquota.list_tenant_role_bindings() is
  'The bound roles: role, tenant (empty: the one that its session names), bound_at, bound_by, and problem: why the binding does not hold as it should, NULL if it does. WQ050 for a caller who is bound.';
