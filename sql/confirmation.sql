-- Confirming stored quotas: a quota that was resolved longer ago than policy.staleness must be resolved
-- again before it is used, since somebody may have edited its inputs by hand. That costs several times what a
-- reservation does, and nearly always finds nothing. So whoever watches compares all of them at once.

-- Compares the inputs of all stored quotas with those of the last time. Quotas whose inputs changed, and
-- those that were never compared, are marked as stale; all others may be trusted for another
-- policy.staleness, by two moments in the policy row, which every reservation reads anyway. Answers how
-- many were marked; NULL where it was too early to look again, or somebody else does.
--
-- The number is kept from one comparison to the next, and changed only together with the mark. So a quota
-- whose row is locked, perhaps by a transaction that read the inputs before they were edited and stores
-- later what followed from them, differs again the next time.
--
-- No sooner than half of the staleness after the last time, and seldom enough that comparing takes a
-- quarter of one processor at most; where it takes longer than a quarter of the staleness, what it confirms
-- runs out before the next time. At most 100,000 are marked by one call: where there are more, nothing is
-- confirmed yet, and the next call may go on at once.
-- Locks: the scan_state row, quota rows and the policy row, each without waiting: who changes the policy
-- holds that row and waits for quota rows.
create or replace function stepquota.confirm_workflow_step_quotas()
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- So that all tenants, up to some hundreds of thousands, need not be hashed on disk.
set work_mem = '64MB'
as $confirm_workflow_step_quotas$
declare
  v_now timestamptz := stepquota._now();
  v_began timestamptz := clock_timestamp();
  v_took interval;
  v_staleness interval;
  v_most constant integer := 100000;
  v_edited record;
  v_seen integer := 0;
  v_marked bigint := 0;
begin
  perform stepquota._check_unbound();
  -- Under REPEATABLE READ the inputs would be those of an earlier moment.
  if current_setting('transaction_isolation') <> 'read committed' then
    return null;
  end if;
  select p.staleness into v_staleness
    from stepquota.scan_state s, stepquota.policy p
   where s.quotas_compared_at is null or s.quotas_compared_at > v_now
      or s.quotas_compared_at <= v_now - greatest(p.staleness / 2, s.quotas_compared_in * 4)
     for no key update of s skip locked;
  if not found then
    return null;
  end if;

  for v_edited in
    select h.tenant, h.inputs_hash
      from stepquota._list_input_hashes(false) h
     where h.known_hash is distinct from h.inputs_hash
     limit v_most
  loop
    v_seen := v_seen + 1;
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = v_edited.tenant for no key update skip locked;
    if found then
      update stepquota.workflow_step_quotas q
         set inputs_hash = v_edited.inputs_hash, trusted_until = '-infinity', epoch = 0
       where q.tenant = v_edited.tenant;
      v_marked := v_marked + 1;
    end if;
  end loop;
  if v_seen = v_most then
    return v_marked;
  end if;

  perform 1 from stepquota.policy p for no key update skip locked;
  if found then
    update stepquota.policy set confirmed_from = v_now - v_staleness, confirmed_until = v_now + v_staleness;
  end if;
  v_took := clock_timestamp() - v_began;
  update stepquota.scan_state set quotas_compared_at = v_now, quotas_compared_in = v_took;
  return v_marked;
end;
$confirm_workflow_step_quotas$;

comment on function stepquota.confirm_workflow_step_quotas() is
  'For watch and tick: compares all stored quotas with their inputs, if it is time, so that reservations need not; marks those whose inputs were edited. Answers how many; NULL if it was not time. WQ050 for a caller who is bound to a tenant.';
