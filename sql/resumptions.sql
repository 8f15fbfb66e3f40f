-- The outbox: runs that a runtime should go on with. Delivered until acknowledged or re-entered.

-- One for each run; p_node_paths has an array of paths, as text, for each.
create or replace function stepquota._add_resumptions(
  p_tenant text, p_resumption_ids uuid[], p_run_ids text[], p_runtimes text[], p_wait_ids uuid[], p_wait_type text,
  p_node_paths text[], p_now timestamptz)
returns void
language plpgsql
volatile
as $_add_resumptions$
begin
  insert into stepquota.workflow_run_resumptions
    (tenant, resumption_id, run_id, runtime, wait_id, wait_type, node_paths, unentered_paths, created_at, claimable_at)
  select p_tenant, r.resumption_id, r.run_id, r.runtime, r.wait_id, p_wait_type, r.node_paths::text[],
         r.node_paths::text[], p_now, p_now
    from unnest(p_resumption_ids, p_run_ids, p_runtimes, p_wait_ids, p_node_paths)
         with ordinality as r (resumption_id, run_id, runtime, wait_id, node_paths, place)
   order by r.place;
end;
$_add_resumptions$;

-- One hint for whoever listens, with a fixed payload: PostgreSQL folds equal ones of a transaction.
-- Only transactions that added a resumption may send it, since NOTIFY makes commits wait for each other.
create or replace function stepquota._notify_resumptions()
returns void
language plpgsql
volatile
as $_notify_resumptions$
begin
  if exists (select 1 from stepquota.policy p where p.notify_resumptions) then
    perform pg_notify('stepquota_resumption', '');
  end if;
end;
$_notify_resumptions$;

-- The runtime is back at a path: it leaves the resumptions of the run, and one without further paths
-- is acknowledged by that. Answers the queue place of the quota wait it came from, if it did.
-- Locks: the caller holds the run; then its resumptions.
create or replace function stepquota._enter_resumed_path(
  p_tenant text, p_run_id text, p_node_path text, p_now timestamptz)
returns timestamptz
language plpgsql
volatile
as $_enter_resumed_path$
declare
  v_resumption record;
  v_queued_at timestamptz;
begin
  for v_resumption in
    select r.resumption_id, r.wait_id, r.wait_type
      from stepquota.workflow_run_resumptions r
     where r.tenant = p_tenant and r.run_id = p_run_id and p_node_path = any (r.unentered_paths)
  loop
    update stepquota.workflow_run_resumptions r
       set unentered_paths = array_remove(r.unentered_paths, p_node_path),
           status = case when cardinality(r.unentered_paths) = 1 and r.status = 'OPEN'
                         then 'ACKNOWLEDGED' else r.status end,
           closed_at = case when cardinality(r.unentered_paths) = 1 and r.status = 'OPEN'
                            then p_now else r.closed_at end
     where r.tenant = p_tenant and r.resumption_id = v_resumption.resumption_id;
    if v_resumption.wait_type = 'quota' then
      v_queued_at := least(v_queued_at, (stepquota._host_find_wait(p_tenant, v_resumption.wait_id)).queued_at);
    end if;
  end loop;
  return v_queued_at;
end;
$_enter_resumed_path$;

-- The run has ended: nothing of it is to be gone on with.
create or replace function stepquota._cancel_resumptions(p_tenant text, p_run_id text, p_now timestamptz)
returns void
language sql
volatile
as $_cancel_resumptions$
  update stepquota.workflow_run_resumptions
     set status = 'CANCELED', closed_at = p_now
   where tenant = p_tenant and run_id = p_run_id and status = 'OPEN';
  update stepquota.workflow_run_resumptions
     set unentered_paths = '{}'
   where tenant = p_tenant and run_id = p_run_id and status = 'ACKNOWLEDGED' and unentered_paths <> '{}';
$_cancel_resumptions$;

create or replace function stepquota._has_unentered_resumption(p_tenant text, p_run_id text)
returns boolean
language sql
stable
as $_has_unentered_resumption$
  select exists (
    select 1 from stepquota.workflow_run_resumptions r
     where r.tenant = p_tenant and r.run_id = p_run_id and r.status <> 'CANCELED' and r.unentered_paths <> '{}');
$_has_unentered_resumption$;

-- Delivered so often that something is wrong with it, since somebody last said that it is to be tried anew.
create or replace function stepquota._is_stuck(
  p_resumption stepquota.workflow_run_resumptions, p_stuck_after_deliveries integer)
returns boolean
language sql
immutable
as $_is_stuck$
  select cardinality(p_resumption.deliveries) - p_resumption.forgiven_deliveries >= p_stuck_after_deliveries;
$_is_stuck$;

-- Units that are promised: quota resumptions handed out whose paths nobody has re-entered. Old and
-- stuck ones count no more, so that a dead runtime does not starve its tenant.
create or replace function stepquota._count_promised_units(p_tenant text, p_now timestamptz)
returns bigint
language sql
stable
as $_count_promised_units$
  select coalesce(sum(cardinality(r.unentered_paths)), 0)::bigint
    from stepquota.workflow_run_resumptions r, stepquota.policy p
   where r.tenant = p_tenant and r.wait_type = 'quota' and r.status <> 'CANCELED' and r.unentered_paths <> '{}'
     and r.created_at > p_now - p.resumption_counts_for
     and not stepquota._is_stuck(r, p.stuck_after_deliveries);
$_count_promised_units$;

-- A worker may act under a delivery only while no newer claim of the same resumption exists; and none
-- comes into being before the worker's transaction ends.
-- Locks: the caller holds the run; then the resumption, waiting. SQLSTATEs: WQ007.
create or replace function stepquota._check_delivery(p_tenant text, p_run_id text, p_delivery bigint)
returns void
language plpgsql
volatile
as $_check_delivery$
declare
  v_newest bigint;
begin
  if p_delivery is null then
    return;
  end if;
  select r.delivery into v_newest
    from stepquota.workflow_run_resumptions r
   where r.tenant = p_tenant and r.run_id = p_run_id and p_delivery = any (r.deliveries)
     for no key update;
  if v_newest is distinct from p_delivery then
    raise exception using
      errcode = 'WQ007',
      message = 'the delivery is not the newest one',
      detail = format('Tenant %L, run %L, delivery %s; the newest delivery of that resumption is %s.',
        p_tenant, p_run_id, p_delivery, coalesce(v_newest::text, 'unknown')),
      hint = 'Another worker has claimed the resumption since: stop working on this run.';
  end if;
end;
$_check_delivery$;

-- Hands resumptions of one runtime to a worker, each to one worker at a time: it has them for the
-- lease. Delivered again when the lease ends without an acknowledgement; one that is stuck after twice the
-- time, four times, and so on, up to an hour, so that a run that kills its workers does not kill them all
-- the time, and still is never given up.
--
-- Tenants take turns: each gets an equal part of the claim before anybody gets more. Where there are more
-- than a claim looks at, it begins with any tenant by chance, so that each of them comes first as often.
-- Locks: resumptions, never waiting, one tenant after the other. SQLSTATEs: WQ001.
create or replace function stepquota.claim_workflow_run_resumptions(
  p_worker text, p_max_runs integer default 100, p_lease interval default '1 minute',
  p_runtime text default 'default', p_tenant text default null)
returns table (
  tenant text, resumption_id uuid, run_id text, node_paths text[], delivery bigint, wait_type text,
  leased_until timestamptz, payload jsonb)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $claim_workflow_run_resumptions$
declare
  v_now timestamptz := stepquota._now();
  v_stuck_after integer;
  v_tenants text[];
  v_tenant text;
  v_wanted integer;
  v_claimed integer;
  v_share integer;
  v_own_tenant text;
begin
  perform stepquota._check_name('p_worker', p_worker);
  perform stepquota._check_name('p_runtime', p_runtime);
  if p_max_runs is null or p_max_runs not between 1 and 10000 then
    perform stepquota._refuse_argument('p_max_runs', p_max_runs::text, 'a number from 1 to 10000', 'Claim as many runs as you can take on now.');
  end if;
  -- An endless lease would lose the run of a worker that dies.
  if p_lease is null or p_lease <= interval '0' or p_lease > interval '1 day' then
    perform stepquota._refuse_argument('p_lease', p_lease::text, 'an interval above 0, of at most a day', 'A minute is usual.');
  end if;
  if p_tenant is not null then
    perform stepquota._check_tenant(p_tenant);
  end if;
  v_own_tenant := coalesce(p_tenant, stepquota._get_callers_tenant());
  select p.stuck_after_deliveries into v_stuck_after from stepquota.policy p;

  -- Some tenants after the others, each an equal part of what is still wanted, until there are enough runs
  -- or somebody else has all that are left. So who has very many gets them only after the others.
  loop
    v_tenants := case when v_own_tenant is null then stepquota._list_claimable_tenants(p_runtime, p_max_runs, v_now)
                      else array[v_own_tenant] end;
    v_wanted := p_max_runs;
    v_share := greatest(1, p_max_runs / greatest(1, cardinality(v_tenants)));
    foreach v_tenant in array v_tenants loop
      exit when p_max_runs <= 0;
      return query
        select v_tenant, c.* from stepquota._claim_of_tenant(v_tenant, p_runtime, p_worker,
          least(v_share, p_max_runs), p_lease, v_stuck_after, v_now) c;
      get diagnostics v_claimed = row_count;
      p_max_runs := p_max_runs - v_claimed;
    end loop;
    exit when p_max_runs <= 0 or p_max_runs = v_wanted or v_own_tenant is not null;
  end loop;
end;
$claim_workflow_run_resumptions$;

-- Tenants of whom a worker of this runtime may claim something now, in an order by chance.
create or replace function stepquota._list_claimable_tenants(p_runtime text, p_max_runs integer, p_now timestamptz)
returns text[]
language plpgsql
volatile
as $_list_claimable_tenants$
declare
  -- Several runs of each, since a tenant costs more than a run.
  v_taken integer := greatest(4, p_max_runs / 4);
  -- Of so many tenants chance is fair.
  v_wanted integer := greatest(16, v_taken);
  v_seen integer;
  v_tenants text[];
  v_start bigint;
  v_slot bigint;
  v_tenant text;
  v_claimable_at timestamptz;
  v_has_wrapped boolean := false;
begin
  -- Usually few are there, and this is all of them.
  select count(*), array_agg(distinct o.tenant) into v_seen, v_tenants
    from (select r.tenant from stepquota.workflow_run_resumptions r
           where r.runtime = p_runtime and r.status = 'OPEN' and r.claimable_at <= p_now
           order by r.claimable_at
           limit v_wanted * 2) o;
  if v_seen < v_wanted * 2 then
    return array(select t.tenant from unnest(v_tenants) as t (tenant) order by random() limit v_taken);
  end if;

  -- Else from tenant to tenant over the index, from any point on and around. Tenants all of whose
  -- resumptions others have are passed over, but not without end: the oldest were found above.
  v_start := hashtextextended(gen_random_uuid()::text, 0);
  v_slot := v_start;
  v_tenant := '';
  for v_hop in 1 .. v_wanted * 4 loop
    exit when cardinality(v_tenants) >= v_wanted * 2;
    select hashtextextended(r.tenant, 0), r.tenant, r.claimable_at into v_slot, v_tenant, v_claimable_at
      from stepquota.workflow_run_resumptions r
     where r.runtime = p_runtime and r.status = 'OPEN'
       and (hashtextextended(r.tenant, 0), r.tenant) > (v_slot, v_tenant)
     order by hashtextextended(r.tenant, 0), r.tenant, r.claimable_at
     limit 1;
    if not found then
      exit when v_has_wrapped;
      v_has_wrapped := true;
      v_slot := -9223372036854775808;
      v_tenant := '';
      continue;
    end if;
    exit when v_has_wrapped and v_slot >= v_start;
    if v_claimable_at <= p_now and v_tenant <> all (v_tenants) then
      v_tenants := v_tenants || v_tenant;
    end if;
  end loop;
  return array(select t.tenant from unnest(v_tenants) as t (tenant) order by random() limit v_taken);
end;
$_list_claimable_tenants$;

-- Claims of one tenant, oldest first. Statements for all of them together.
-- Locks: resumptions, never waiting.
create or replace function stepquota._claim_of_tenant(
  p_tenant text, p_runtime text, p_worker text, p_max_runs integer, p_lease interval, p_stuck_after integer,
  p_now timestamptz)
returns table (
  resumption_id uuid, run_id text, node_paths text[], delivery bigint, wait_type text, leased_until timestamptz,
  payload jsonb)
language plpgsql
volatile
as $_claim_of_tenant$
#variable_conflict use_column
declare
  v_resumptions stepquota.workflow_run_resumptions[];
  v_resumption stepquota.workflow_run_resumptions;
  v_ids uuid[];
  v_wait_ids uuid[];
  v_deliveries bigint[];
  v_claimable_at timestamptz[];
  v_payloads jsonb[];
  v_has_stuck boolean;
begin
  v_resumptions := array(
    select r from stepquota.workflow_run_resumptions r
     where r.tenant = p_tenant and r.runtime = p_runtime and hashtextextended(r.tenant, 0) = hashtextextended(p_tenant, 0)
       and r.status = 'OPEN' and r.claimable_at <= p_now
     order by r.claimable_at
     limit p_max_runs
       for no key update skip locked);
  if v_resumptions = '{}' then
    return;
  end if;
  select array_agg(r.resumption_id), array_agg(r.wait_id), array_agg(nextval('stepquota.workflow_run_deliveries')),
         array_agg(p_now + p_lease * case
           when cardinality(r.deliveries) + 1 - r.forgiven_deliveries < p_stuck_after then 1
           else power(2, least(cardinality(r.deliveries) + 1 - r.forgiven_deliveries - p_stuck_after, 16)) end),
         bool_or(cardinality(r.deliveries) + 1 - r.forgiven_deliveries = p_stuck_after)
    into v_ids, v_wait_ids, v_deliveries, v_claimable_at, v_has_stuck
    from unnest(v_resumptions) r;
  update stepquota.workflow_run_resumptions r
     set delivery = c.delivery, deliveries = r.deliveries || c.delivery, worker = p_worker,
         leased_until = p_now + p_lease,
         claimable_at = greatest(least(c.claimable_at, p_now + interval '1 hour'), p_now + p_lease)
    from unnest(v_ids, v_deliveries, v_claimable_at) as c (resumption_id, delivery, claimable_at)
   where r.tenant = p_tenant and r.resumption_id = c.resumption_id;
  if v_has_stuck then
    foreach v_resumption in array v_resumptions loop
      if cardinality(v_resumption.deliveries) + 1 - v_resumption.forgiven_deliveries = p_stuck_after then
        perform stepquota._record_event(p_tenant, 'resumption_stuck', 'error', v_resumption.run_id,
          jsonb_build_object('resumption_id', v_resumption.resumption_id, 'deliveries', p_stuck_after,
            'runtime', p_runtime, 'worker', p_worker, 'node_paths', to_jsonb(v_resumption.unentered_paths)), p_now);
      end if;
    end loop;
  end if;
  v_payloads := stepquota._host_list_payloads(p_tenant, v_wait_ids);
  return query
    select r.resumption_id, r.run_id, r.unentered_paths, v_deliveries[r.place], r.wait_type, p_now + p_lease,
           v_payloads[r.place]
      from (select u.*, row_number() over () as place from unnest(v_resumptions) u) r;
end;
$_claim_of_tenant$;

-- Has a resumption delivered anew, at once, as if it never had been: for one that was stuck, when what was
-- wrong is mended. Whoever has it now is refused as soon as it is claimed again.
-- Locks: the resumption. SQLSTATEs: WQ001, WQ013.
create or replace function stepquota.redeliver_workflow_run_resumption(p_tenant text, p_resumption_id uuid)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $redeliver_workflow_run_resumption$
declare
  v_now timestamptz := stepquota._now();
  v_resumption stepquota.workflow_run_resumptions := stepquota._lock_resumption(p_tenant, p_resumption_id);
begin
  if v_resumption.status <> 'OPEN' then
    return false;
  end if;
  update stepquota.workflow_run_resumptions r
     set forgiven_deliveries = cardinality(r.deliveries), claimable_at = v_now, leased_until = null
   where r.tenant = p_tenant and r.resumption_id = p_resumption_id;
  perform stepquota._record_event(p_tenant, 'resumption_redelivered', 'info', v_resumption.run_id,
    jsonb_build_object('resumption_id', p_resumption_id, 'deliveries', cardinality(v_resumption.deliveries),
      'by', session_user), v_now);
  perform stepquota._notify_resumptions();
  return true;
end;
$redeliver_workflow_run_resumption$;

-- Locks: the resumption. SQLSTATEs: WQ001, WQ013.
create or replace function stepquota._lock_resumption(p_tenant text, p_resumption_id uuid)
returns stepquota.workflow_run_resumptions
language plpgsql
volatile
as $_lock_resumption$
declare
  v_resumption stepquota.workflow_run_resumptions;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_resumption_id is null then
    perform stepquota._refuse_argument('p_resumption_id', null, 'a uuid', 'Pass the resumption_id that was claimed.');
  end if;
  select r.* into v_resumption
    from stepquota.workflow_run_resumptions r
   where r.tenant = p_tenant and r.resumption_id = p_resumption_id
     for no key update;
  if not found then
    raise exception using
      errcode = 'WQ013',
      message = 'the tenant has no such resumption',
      detail = format('Tenant %L, resumption %L.', p_tenant, p_resumption_id),
      hint = 'Pass tenant and resumption_id as claim_workflow_run_resumptions answered them.';
  end if;
  return v_resumption;
end;
$_lock_resumption$;

-- The runtime has stored the hand-over durably: no more deliveries. Re-entering does the same.
-- Locks: the resumption. SQLSTATEs: WQ001, WQ013.
create or replace function stepquota.acknowledge_workflow_run_resumption(p_tenant text, p_resumption_id uuid)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $acknowledge_workflow_run_resumption$
declare
  v_now timestamptz := stepquota._now();
begin
  if (stepquota._lock_resumption(p_tenant, p_resumption_id)).status <> 'OPEN' then
    return false;
  end if;
  update stepquota.workflow_run_resumptions
     set status = 'ACKNOWLEDGED', closed_at = v_now
   where tenant = p_tenant and resumption_id = p_resumption_id;
  return true;
end;
$acknowledge_workflow_run_resumption$;

comment on function stepquota._add_resumptions(text, uuid[], text[], text[], uuid[], text, text[], timestamptz) is 'Adds resumptions to the outbox.';
comment on function stepquota._notify_resumptions() is 'Sends the hint that there are resumptions, where policy wants it.';
comment on function stepquota._enter_resumed_path(text, text, text, timestamptz) is 'Takes a path out of the run''s resumptions.';
comment on function stepquota._cancel_resumptions(text, text, timestamptz) is 'Cancels the resumptions of a run that has ended.';
comment on function stepquota._has_unentered_resumption(text, text) is 'Whether the run was resumed at a path that nobody has re-entered.';
comment on function stepquota._count_promised_units(text, timestamptz) is 'Units promised to resumptions handed out.';
comment on function stepquota._check_delivery(text, text, bigint) is 'Raises WQ007 for a delivery that is not the newest.';
comment on function stepquota._is_stuck(stepquota.workflow_run_resumptions, integer) is 'Whether a resumption was delivered that often.';
comment on function stepquota._list_claimable_tenants(text, integer, timestamptz) is 'Tenants of whom something may be claimed, by chance.';
comment on function stepquota._claim_of_tenant(text, text, text, integer, interval, integer, timestamptz) is 'Claims of one tenant.';
comment on function stepquota._lock_resumption(text, uuid) is 'The resumption, locked; raises WQ013 if there is none.';
comment on function stepquota.claim_workflow_run_resumptions(text, integer, interval, text, text) is
  'Hands runs to go on with to a worker, for a lease: tenant, resumption_id, run_id, the paths to re-enter (node_paths), delivery (pass it to start and finish), wait_type, leased_until, payload of the wait. p_max_runs 1 to 10000; p_tenant NULL is all tenants, in turns. Not acknowledged and not re-entered when the lease ends, they are delivered again; stuck ones after longer and longer pauses, up to an hour. WQ001 bad arguments.';
comment on function stepquota.redeliver_workflow_run_resumption(text, uuid) is
  'Has a resumption that nobody has taken on delivered anew, at once, with its deliveries forgotten; for one that is stuck. False if it was taken on or cancelled. WQ001 bad arguments, WQ013 unknown resumption.';
comment on function stepquota.acknowledge_workflow_run_resumption(text, uuid) is
  'Says that the runtime has stored the hand-over durably; no further delivery. True the first time. Re-entering every path of it does the same. WQ001 bad arguments, WQ013 unknown resumption.';
