-- A partition of the ledger needs no check of its month beside its bounds, which PostgreSQL sees to: a
-- statement that writes parses each check of the table again, so it made every step's start dearer.

do $drop_month_checks$
declare
  v_check record;
begin
  for v_check in
    select k.conrelid::regclass as partition, k.conname
      from pg_catalog.pg_inherits i
      join pg_catalog.pg_constraint k on k.conrelid = i.inhrelid
     where i.inhparent = 'stepquota.workflow_run_steps'::regclass
       and k.contype = 'c' and k.coninhcount = 0 and k.conname like '%\_is\_of\_its\_month'
     order by k.conrelid::regclass::text
  loop
    execute format('alter table %s drop constraint if exists %I', v_check.partition, v_check.conname);
  end loop;
end;
$drop_month_checks$;
