-- Rights for roles that are there already. Where the four roles are, and the caller may give them, it is
-- by membership; else the same rights are granted to the role itself. What was given is remembered, and
-- stated again by each migrate: new functions of a release are not granted to anybody else.

-- Takes from a role all rights that it has by itself on the schema and what is in it, and with them what it
-- has passed on.
create or replace function stepquota._revoke_direct_rights(p_role name)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $_revoke_direct_rights$
begin
  execute format('revoke all on all tables in schema stepquota from %I cascade', p_role);
  execute format('revoke all on all sequences in schema stepquota from %I cascade', p_role);
  execute format('revoke all on all routines in schema stepquota from %I cascade', p_role);
  execute format('revoke all on schema stepquota from %I cascade', p_role);
end;
$_revoke_direct_rights$;

-- Grants to a role what one of the four may: p_like is its name.
create or replace function stepquota._grant_direct_rights(p_role name, p_like text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $_grant_direct_rights$
declare
  v_names constant jsonb := stepquota._list_granted_routines() -> p_like;
  v_routine regprocedure;
  v_table regclass;
begin
  execute format('grant usage on schema stepquota to %I', p_role);
  for v_routine in
    select p.oid from pg_proc p
     where p.pronamespace = 'stepquota'::regnamespace and v_names ? p.proname::text
     order by p.proname, p.oid
  loop
    execute format('grant execute on routine %s to %I', v_routine, p_role);
  end loop;
  if p_like in ('stepquota_observer', 'stepquota_operator') then
    -- Partitions are read through their parent, and made between loads.
    for v_table in
      select c.oid from pg_class c
       where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p', 'v')
         and not c.relispartition
       order by c.relname
    loop
      execute format('grant select on table %s to %I', v_table, p_role);
    end loop;
  end if;
end;
$_grant_direct_rights$;

-- Gives one of the rights, by membership if that can be; answers how. A role without INHERIT would have
-- nothing of a membership before it says SET ROLE.
create or replace function stepquota._give_rights(p_role name, p_rights text)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $_give_rights$
declare
  v_like constant name := 'stepquota_' || p_rights;
begin
  if exists (select 1 from pg_roles r where r.rolname = v_like)
     and exists (select 1 from pg_roles r where r.rolname = p_role and r.rolinherit) then
    if exists (
      select 1 from pg_auth_members m
       where m.roleid = v_like::regrole and m.member = (quote_ident(p_role))::regrole
    ) then
      return 'membership';
    end if;
    begin
      execute format('grant %I to %I', v_like, p_role);
      return 'membership';
    exception when insufficient_privilege then
      null;  -- they are another installation's of this server: not ours to give
    end;
  end if;
  perform stepquota._grant_direct_rights(p_role, v_like);
  return 'direct';
end;
$_give_rights$;

-- For the end of every load: everything that grant_role gave, anew; roles that are gone are forgotten.
create or replace function stepquota._restate_role_grants()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $_restate_role_grants$
declare
  v_grant stepquota.role_grants;
  v_given_as text;
begin
  delete from stepquota.role_grants g where not exists (select 1 from pg_roles r where r.rolname = g.role_name);
  for v_grant in
    select distinct on (g.role_name) g.* from stepquota.role_grants g order by g.role_name, g.rights
  loop
    perform stepquota._revoke_direct_rights(v_grant.role_name);
  end loop;
  for v_grant in select g.* from stepquota.role_grants g order by g.role_name, g.rights loop
    v_given_as := stepquota._give_rights(v_grant.role_name, v_grant.rights);
    update stepquota.role_grants
       set given_as = v_given_as
     where role_name = v_grant.role_name and rights = v_grant.rights and given_as <> v_given_as;
  end loop;
end;
$_restate_role_grants$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_role_grant(p_role text, p_rights text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $_check_role_grant$
begin
  perform stepquota._check_one_of('p_rights', p_rights, array['runtime', 'operator', 'sync', 'observer']);
  if p_role is null or not exists (select 1 from pg_roles r where r.rolname = p_role)
     or p_role = any (array['stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer']) then
    perform stepquota._refuse_argument('p_role', p_role, 'an existing role, and none of the four of stepquota',
      'Make it first: create role ... login;');
  end if;
end;
$_check_role_grant$;

-- For the owner of stepquota, or a superuser: PostgreSQL asks who grants. Invoker's rights for that.
-- Locks: the row of the grant.
-- SQLSTATEs: WQ001.
create or replace function stepquota.grant_role(p_role text, p_rights text)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $grant_role$
declare
  v_now timestamptz := stepquota._now();
  v_given_as text;
begin
  perform stepquota._check_role_grant(p_role, p_rights);
  v_given_as := stepquota._give_rights(p_role, p_rights);
  insert into stepquota.role_grants (role_name, rights, given_as, granted_by, granted_at)
  values (p_role, p_rights, v_given_as, session_user, v_now)
  on conflict (role_name, rights) do update set given_as = excluded.given_as;
  return v_given_as;
end;
$grant_role$;

-- As grant_role. What the role has by other rights of grant_role stays; a membership that somebody else
-- gave goes, too.
-- SQLSTATEs: WQ001.
create or replace function stepquota.revoke_role(p_role text, p_rights text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $revoke_role$
declare
  v_like constant name := 'stepquota_' || p_rights;
  v_grant stepquota.role_grants;
begin
  perform stepquota._check_role_grant(p_role, p_rights);
  delete from stepquota.role_grants g where g.role_name = p_role and g.rights = p_rights returning g.* into v_grant;
  if not found then
    return false;
  end if;
  if v_grant.given_as = 'membership' then
    execute format('revoke %I from %I', v_like, p_role);
    return true;
  end if;
  perform stepquota._revoke_direct_rights(p_role);
  perform stepquota._grant_direct_rights(g.role_name, 'stepquota_' || g.rights)
     from stepquota.role_grants g
    where g.role_name = p_role and g.given_as = 'direct';
  return true;
end;
$revoke_role$;

comment on function stepquota._revoke_direct_rights(name) is 'Internal: takes a role''s own rights on the schema and all in it.';
comment on function stepquota._grant_direct_rights(name, text) is 'Internal: grants to a role what one of the four may.';
comment on function stepquota._give_rights(name, text) is 'Internal: gives rights by membership or directly; answers which.';
comment on function stepquota._restate_role_grants() is 'Internal: gives anew what grant_role gave; part of every load.';
comment on function stepquota._check_role_grant(text, text) is 'Internal: raises WQ001 for an unknown role or unknown rights.';
comment on function stepquota.grant_role(text, text) is
  'For the owner: gives an existing role the rights runtime, operator, sync or observer in this database, and again at each migrate. Answers membership (of the role stepquota_...) or direct, where that role is not there or not the caller''s to give. WQ001 for an unknown role or unknown rights.';
comment on function stepquota.revoke_role(text, text) is
  'For the owner: takes back what grant_role gave. Answers whether it had. WQ001 for an unknown role or unknown rights.';
