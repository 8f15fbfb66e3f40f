-- Ledgers that callers of reserve_workflow_step keep themselves, to compare their counter with.
--
-- Reading somebody else's table with the owner's rights is a door, so: no expressions, only columns, each
-- of a type of PostgreSQL's own; who registers must be allowed to read the table, and so must the owner
-- of stepquota; a view, whose functions would run with the owner's rights, must be the owner's or a
-- superuser's; no foreign tables; no row-level security. All of it is looked at again before each reading,
-- with the relation locked against being replaced.

-- What stands against reading a ledger; NULL is nothing. p_reader is the role that must be allowed to,
-- beside the owner.
-- Locks: the relation in ACCESS SHARE mode, without waiting.
create or replace function stepquota._find_ledger_problem(p_ledger stepquota.registered_ledgers, p_reader name)
returns text
language plpgsql
volatile
as $_find_ledger_problem$
declare
  v_relation regclass;
  v_class pg_class;
  v_column record;
begin
  begin
    v_relation := to_regclass(p_ledger.relation);
    if v_relation is null then
      return 'there is no such table or view; it needs its schema in front';
    end if;
    if not has_table_privilege(current_user, v_relation, 'select') then
      return format('the owner of stepquota may not read it: grant select on %s to %I;', v_relation, current_user);
    end if;
    execute format('lock table %s in access share mode nowait', v_relation);
    if to_regclass(p_ledger.relation) is distinct from v_relation then
      return 'it was just replaced';
    end if;
  exception
    when lock_not_available then
      return 'somebody is changing it';
    when invalid_name or syntax_error or insufficient_privilege or feature_not_supported or undefined_table
         or wrong_object_type then
      return sqlerrm;
  end;
  select c.* into v_class from pg_class c where c.oid = v_relation;
  if not has_table_privilege(p_reader, v_relation, 'select') then
    return format('%I may not read it', p_reader);
  end if;
  if v_class.relnamespace = 'stepquota'::regnamespace or v_class.relpersistence = 't' then
    return 'it must be a table or view of the application';
  end if;
  if v_class.relkind = 'v' and not exists (
    select 1 from pg_roles r where r.oid = v_class.relowner and (r.rolname = current_user or r.rolsuper)
  ) then
    return format('a view must belong to %I, since its functions run with the rights of that role', current_user);
  end if;
  if v_class.relkind not in ('r', 'p', 'v') then
    return 'it must be a table or a view';
  end if;
  if exists (
    with recursive part (oid) as (
      select i.inhrelid from pg_inherits i where i.inhparent = v_relation
      union
      select i.inhrelid from pg_inherits i join part p on p.oid = i.inhparent)
    select 1 from part p join pg_class c on c.oid = p.oid where c.relkind not in ('r', 'p')
  ) then
    return 'one of its partitions is a foreign table';
  end if;
  if row_security_active(v_relation) then
    return format('row-level security hides rows of it from %I', current_user);
  end if;
  for v_column in
    select n.name, n.types, a.atttypid
      from (values
        (p_ledger.tenant_column, 'text, varchar, char, uuid, smallint, integer, bigint',
         array['text', 'varchar', 'bpchar', 'uuid', 'int2', 'int4', 'int8']::regtype[]),
        (p_ledger.period_column, 'timestamptz', array['timestamptz']::regtype[]),
        (p_ledger.time_column, 'timestamptz', array['timestamptz']::regtype[]),
        (p_ledger.count_column, 'smallint, integer, bigint, numeric', array['int2', 'int4', 'int8', 'numeric']::regtype[])
      ) as n (name, types, allowed)
      left join pg_attribute a
        on a.attrelid = v_relation and a.attname = n.name and a.attnum > 0 and not a.attisdropped
       and a.atttypid = any (n.allowed)
     where n.name is not null
  loop
    if v_column.atttypid is null then
      return format('it has no column %I of one of the types %s', v_column.name, v_column.types);
    end if;
  end loop;
  return null;
end;
$_find_ledger_problem$;

-- The registered ledgers, locked so that they stay as they are looked at; none if one of them cannot be read,
-- since they are added up.
-- Locks: as _find_ledger_problem.
create or replace function stepquota._find_readable_ledgers()
returns stepquota.registered_ledgers[]
language plpgsql
volatile
as $_find_readable_ledgers$
declare
  v_ledgers stepquota.registered_ledgers[] := '{}'::stepquota.registered_ledgers[];
  v_ledger stepquota.registered_ledgers;
begin
  for v_ledger in select r.* from stepquota.registered_ledgers r order by r.ledger loop
    if stepquota._find_ledger_problem(v_ledger, current_user) is not null then
      return '{}'::stepquota.registered_ledgers[];
    end if;
    v_ledgers := v_ledgers || v_ledger;
  end loop;
  return v_ledgers;
end;
$_find_readable_ledgers$;

-- The units that registered ledgers have for a period; NULL if none of them can be read. In the snapshot of
-- the statement that calls it, so that reservations of the same moment are seen on both sides or on none.
create or replace function stepquota._count_registered_steps(
  p_ledgers stepquota.registered_ledgers[], p_tenant text, p_period_start timestamptz, p_period_end timestamptz)
returns bigint
language plpgsql
stable
as $_count_registered_steps$
declare
  v_ledger stepquota.registered_ledgers;
  v_relation regclass;
  v_type regtype;
  v_total numeric;
  v_count numeric;
begin
  foreach v_ledger in array p_ledgers loop
    v_relation := to_regclass(v_ledger.relation);
    select a.atttypid into v_type
      from pg_attribute a
     where a.attrelid = v_relation and a.attname = v_ledger.tenant_column;
    begin
      execute format('select coalesce(pg_catalog.%I(l.%I), 0) from %s l where l.%I = $1::%s and l.%I >= $2 and l.%I < $3',
        case when v_ledger.count_column is null then 'count' else 'sum' end,
        coalesce(v_ledger.count_column, v_ledger.tenant_column), v_relation,
        v_ledger.tenant_column, v_type, coalesce(v_ledger.period_column, v_ledger.time_column),
        coalesce(v_ledger.period_column, v_ledger.time_column))
        into v_count
        using p_tenant, p_period_start,
          -- A period's start is that moment and no other.
          case when v_ledger.period_column is null then p_period_end else p_period_start + interval '1 microsecond' end;
    exception when data_exception then
      v_count := 0;  -- the tenant's name is none of that type: no row can be its
    end;
    v_total := coalesce(v_total, 0) + v_count;
  end loop;
  return v_total::bigint;
end;
$_count_registered_steps$;

-- Locks: the relation in ACCESS SHARE mode, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.register_ledger(
  p_ledger text, p_relation text, p_tenant_column text, p_period_column text default null,
  p_time_column text default null, p_count_column text default null)
returns stepquota.registered_ledgers
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $register_ledger$
declare
  v_now timestamptz := stepquota._now();
  v_ledger stepquota.registered_ledgers;
  v_problem text;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_ledger', p_ledger);
  perform stepquota._check_name('p_relation', p_relation);
  perform stepquota._check_name('p_tenant_column', p_tenant_column);
  if (p_period_column is null) = (p_time_column is null) then
    perform stepquota._refuse_argument('p_period_column', p_period_column, 'given, or else p_time_column',
      'Name the column that has the period''s start, or the one that has the moment of the reservation.');
  end if;
  v_ledger := (p_ledger, p_relation, p_tenant_column, p_period_column, p_time_column, p_count_column, session_user, v_now);
  -- The right of who is connected: within this function the present role is the owner.
  v_problem := stepquota._find_ledger_problem(v_ledger, session_user);
  if v_problem is not null then
    perform stepquota._refuse_argument('p_relation', p_relation, 'a table or view that can be compared with',
      format('%s.', v_problem));
  end if;
  insert into stepquota.registered_ledgers values (v_ledger.*)
  on conflict (ledger) do update
    set relation = excluded.relation, tenant_column = excluded.tenant_column, period_column = excluded.period_column,
        time_column = excluded.time_column, count_column = excluded.count_column,
        registered_by = excluded.registered_by, registered_at = excluded.registered_at;
  perform stepquota._record_event('', 'ledger_registered', 'info', null,
    jsonb_build_object('ledger', p_ledger, 'relation', p_relation, 'by', session_user), v_now);
  return v_ledger;
end;
$register_ledger$;

-- SQLSTATEs: WQ001.
create or replace function stepquota.unregister_ledger(p_ledger text)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $unregister_ledger$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_ledger', p_ledger);
  delete from stepquota.registered_ledgers where ledger = p_ledger;
  if not found then
    return false;
  end if;
  perform stepquota._record_event('', 'ledger_unregistered', 'info', null,
    jsonb_build_object('ledger', p_ledger, 'by', session_user), v_now);
  return true;
end;
$unregister_ledger$;

comment on function stepquota._find_ledger_problem(stepquota.registered_ledgers, name) is 'What stands against reading a registered ledger; NULL is nothing.';
comment on function stepquota._find_readable_ledgers() is 'The registered ledgers, if all of them can be read now.';
comment on function stepquota._count_registered_steps(stepquota.registered_ledgers[], text, timestamptz, timestamptz) is 'Units that registered ledgers have for a period; NULL without any.';
comment on function stepquota.register_ledger(text, text, text, text, text, text) is
  'Names a table or view (p_relation, with its schema) in which callers of reserve_workflow_step keep their ledger, so that reconciliation compares with it: the column of the tenant, the column of the period''s start or that of the moment, and the column of how many units a row is (NULL: one). The rows must be written in the transaction of the reservation. Who is connected, and the owner of stepquota, must be allowed to read it. The same p_ledger again replaces it. WQ001 bad arguments, or a relation that cannot be compared with: HINT says why.';
comment on function stepquota.unregister_ledger(text) is
  'Compares with that ledger no more; answers whether it was registered. WQ001 for a name that cannot be one.';
