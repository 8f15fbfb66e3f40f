-- The ledger's partitions. A row's partition is the month its run was registered in: a constant of
-- the run, so the idempotency key stays unique, and a month can be dropped once its runs have ended.

-- Makes the month's partition if it is missing. The table is made and filled with constraints before
-- it is attached: attaching locks the ledger against other DDL only (SHARE UPDATE EXCLUSIVE), while
-- CREATE TABLE ... PARTITION OF would stop every reader and writer. No constraint says its month: it is
-- empty, so that attaching has nothing to look at, and each statement that writes reads every check anew.
create or replace function stepquota._make_ledger_partition(p_month date)
returns boolean
language plpgsql
volatile
as $_make_ledger_partition$
declare
  v_name text := 'workflow_run_steps_' || to_char(p_month, 'YYYY_MM');
  v_next_month date := (p_month + interval '1 month')::date;
begin
  if to_regclass('stepquota.' || v_name) is not null then
    return false;
  end if;
  -- Two that find it missing at once: the second waits here for the first and then sees it.
  lock table stepquota.workflow_run_steps in share update exclusive mode;
  if to_regclass('stepquota.' || v_name) is not null then
    return false;
  end if;
  execute format(
    'create table stepquota.%I (like stepquota.workflow_run_steps including defaults including constraints)'
    ' with (fillfactor = 90)', v_name);
  -- The owner's default privileges may give it to PUBLIC.
  execute format('revoke all on table stepquota.%I from public', v_name);
  execute format(
    'alter table stepquota.workflow_run_steps attach partition stepquota.%I for values from (%L) to (%L)',
    v_name, p_month, v_next_month);
  perform stepquota._secure_table(('stepquota.' || v_name)::regclass);
  execute format('comment on table stepquota.%I is %L', v_name,
    'Ledger of the runs registered in ' || to_char(p_month, 'YYYY-MM') || '.');
  return true;
end;
$_make_ledger_partition$;

-- For the scheduler: the present month and those ahead, so that no registration has to make one.
create or replace function stepquota.make_ledger_partitions(p_months_ahead integer default 3)
returns integer
language plpgsql
volatile
-- Definer: makes tables in the owner's name.
security definer
set search_path = pg_catalog, pg_temp
as $make_ledger_partitions$
declare
  v_month date := stepquota._ledger_month(stepquota._now());
  v_made integer := 0;
begin
  perform stepquota._check_unbound();
  if p_months_ahead is null or p_months_ahead not between 0 and 120 then
    perform stepquota._refuse_argument('p_months_ahead', p_months_ahead::text, 'a number of months from 0 to 120',
      'Three months ahead are usual.');
  end if;
  for v_offset in 0 .. p_months_ahead loop
    if stepquota._make_ledger_partition((v_month + v_offset * interval '1 month')::date) then
      v_made := v_made + 1;
    end if;
  end loop;
  return v_made;
end;
$make_ledger_partitions$;

create or replace function stepquota._ledger_month(p_moment timestamptz)
returns date
language sql
immutable
as $_ledger_month$
  select date_trunc('month', p_moment at time zone 'UTC')::date;
$_ledger_month$;

comment on function stepquota._make_ledger_partition(date) is
  'Makes the ledger partition of a month; answers whether it was missing.';
comment on function stepquota.make_ledger_partitions(integer) is
  'Makes the ledger partitions of this month and of the given number of months ahead; answers how many were missing. tick() calls it. WQ001 outside 0 to 120.';
comment on function stepquota._ledger_month(timestamptz) is 'First day of the UTC month of a moment.';

-- The month that runs are registered in now, and three ahead, so that the first registration need not.
do $first_partitions$
begin
  perform stepquota.make_ledger_partitions();
end;
$first_partitions$;
