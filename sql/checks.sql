-- Arguments that cannot be meant. What is refused here has written nothing yet.

-- Every granted function that is for a tenant calls this before anything else: tenants are keys of every
-- table, and a role may be bound to another one. Those that every step goes through ask that where they
-- read the policy row. Raises WQ001, WQ050.
create or replace function stepquota._check_tenant(p_tenant text)
returns void
language plpgsql
stable
as $_check_tenant$
begin
  if p_tenant is null or p_tenant = '' or octet_length(p_tenant) > 255 then
    perform stepquota._refuse_argument('p_tenant', p_tenant, 'a text of 1 to 255 bytes',
      'Pass the tenant''s key as text, for instance $1::text for a uuid or an integer.');
  end if;
  if exists (
    select 1 from stepquota.policy p
     where p.bound_roles is not null and not stepquota._may_act_for(p_tenant, p.bound_roles)
  ) then
    perform stepquota._refuse_bound_caller(format('tenant %L', p_tenant));
  end if;
end;
$_check_tenant$;

-- Keys longer than these would not fit an index entry of the ledger. Raises WQ001.
create or replace function stepquota._check_run_id(p_run_id text)
returns void
language plpgsql
stable
as $_check_run_id$
begin
  if p_run_id is null or p_run_id = '' or octet_length(p_run_id) > 255 then
    perform stepquota._refuse_argument('p_run_id', p_run_id, 'a text of 1 to 255 bytes',
      'Pass the run''s key as text.');
  end if;
end;
$_check_run_id$;

-- What a path may be; written to be inlined. NULL is no path.
create or replace function stepquota._is_node_path(p_node_path text)
returns boolean
language sql
immutable
as $_is_node_path$
  select p_node_path <> '' and octet_length(p_node_path) <= 1800;
$_is_node_path$;

-- Raises WQ001.
create or replace function stepquota._check_node_path(p_node_path text)
returns void
language plpgsql
stable
as $_check_node_path$
begin
  if stepquota._is_node_path(p_node_path) is not true then
    perform stepquota._refuse_argument('p_node_path', p_node_path, 'a text of 1 to 1800 bytes',
      'Pass the path of the visit, with the iteration of every loop around it, for instance root.steps[1].');
  end if;
end;
$_check_node_path$;

-- What a short name may be; written to be inlined. NULL is none.
create or replace function stepquota._is_name(p_value text)
returns boolean
language sql
immutable
as $_is_name$
  select p_value <> '' and octet_length(p_value) <= 255;
$_is_name$;

-- A short name: a worker, a runtime, a tier. Raises WQ001.
create or replace function stepquota._check_name(p_parameter text, p_value text)
returns void
language plpgsql
stable
as $_check_name$
begin
  if stepquota._is_name(p_value) is not true then
    perform stepquota._refuse_argument(p_parameter, p_value, 'a text of 1 to 255 bytes', 'Pass a short name.');
  end if;
end;
$_check_name$;

-- Raises WQ001.
create or replace function stepquota._check_one_of(p_parameter text, p_value text, p_allowed text[])
returns void
language plpgsql
stable
as $_check_one_of$
begin
  if p_value is null or p_value <> all (p_allowed) then
    perform stepquota._refuse_argument(p_parameter, p_value, 'one of ' || array_to_string(p_allowed, ', '),
      'Words are compared exactly, upper and lower case included.');
  end if;
end;
$_check_one_of$;

-- Whether an array, of whatever dimensions, has a NULL in it. Written to be inlined.
create or replace function stepquota._has_null(p_values anyarray)
returns boolean
language sql
immutable
as $_has_null$
  select exists (select 1 from unnest(p_values) as v (value) where v.value is null);
$_has_null$;

-- A value for an error's DETAIL, quoted; long ones are cut.
create or replace function stepquota._quote_shortly(p_value text)
returns text
language sql
immutable
as $_quote_shortly$
  select case
    when octet_length(p_value) > 120 then format('%L..., %s bytes long', left(p_value, 40), octet_length(p_value))
    else quote_nullable(p_value) end;
$_quote_shortly$;

-- The one place that words this error. Always raises WQ001; long values are cut, they may be megabytes.
create or replace function stepquota._refuse_argument(p_parameter text, p_value text, p_expected text, p_hint text)
returns void
language plpgsql
stable
as $_refuse_argument$
begin
  raise exception using
    errcode = 'WQ001',
    message = format('%s must be %s', p_parameter, p_expected),
    detail = format('%s is %s.', p_parameter, stepquota._quote_shortly(p_value)),
    hint = p_hint;
end;
$_refuse_argument$;

comment on function stepquota._check_tenant(text) is 'Raises WQ001 unless the text can be a tenant, and WQ050 if the caller is bound to another.';
comment on function stepquota._check_run_id(text) is 'Raises WQ001 unless the text can be a run id.';
comment on function stepquota._is_node_path(text) is 'Whether the text can be a node path.';
comment on function stepquota._is_name(text) is 'Whether the text can be a short name.';
comment on function stepquota._check_node_path(text) is 'Raises WQ001 unless the text can be a node path.';
comment on function stepquota._check_name(text, text) is 'Raises WQ001 unless the text can be a short name.';
comment on function stepquota._check_one_of(text, text, text[]) is 'Raises WQ001 unless the word is one of the allowed.';
comment on function stepquota._has_null(anyarray) is 'Whether an array has a NULL in it.';
comment on function stepquota._quote_shortly(text) is 'A value for an error''s DETAIL.';
comment on function stepquota._refuse_argument(text, text, text, text) is 'Raises WQ001 for an argument.';
