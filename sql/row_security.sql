-- Row-level security, for those who read tables themselves: a role that is bound to a tenant sees its rows.
--
-- One policy a table, which asks once a query, not once a row, who is reading. The owner is not subject to
-- it, so it costs the functions nothing, and they check for themselves. Found in the catalogue, so no table
-- is left out; a table without the column tenant is not for bound roles at all.

-- Answers whether there was something to do. Locks: the table against everybody, only then.
create or replace function stepquota._secure_table(p_table regclass)
returns boolean
language plpgsql
volatile
as $_secure_table$
declare
  v_has_tenant constant boolean := exists (
    select 1 from pg_attribute a where a.attrelid = p_table and a.attname = 'tenant' and not a.attisdropped);
  v_has_policy constant boolean := exists (
    select 1 from pg_policy p where p.polrelid = p_table and p.polname = 'own_tenant');
begin
  if v_has_policy and exists (select 1 from pg_class c where c.oid = p_table and c.relrowsecurity) then
    return false;
  end if;
  if not v_has_policy then
    execute format('create policy own_tenant on %s using ((select stepquota.list_visible_tenants(current_user)) is null %s)',
      p_table, case when v_has_tenant then 'or tenant = any ((select stepquota.list_visible_tenants(current_user))::text[])' end);
  end if;
  execute format('alter table %s enable row level security', p_table);
  -- Also where the owner's default privileges are generous.
  execute format('revoke all on table %s from public', p_table);
  return true;
end;
$_secure_table$;

comment on function stepquota._secure_table(regclass) is 'Makes row-level security of a table as it should be.';
