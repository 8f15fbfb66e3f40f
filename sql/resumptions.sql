-- The outbox: runs that a runtime should go on with. Delivered until acknowledged or re-entered.

create or replace function stepquota._add_resumption(
  p_run stepquota.workflow_runs, p_wait stepquota.workflow_run_waits, p_node_paths text[], p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_add_resumption$
declare
  v_resumption_id uuid := gen_random_uuid();
begin
  insert into stepquota.workflow_run_resumptions
    (tenant, resumption_id, run_id, runtime, wait_id, wait_type, node_paths, unentered_paths, created_at)
  values (p_run.tenant, v_resumption_id, p_run.run_id, p_run.runtime, p_wait.wait_id, p_wait.wait_type,
    p_node_paths, p_node_paths, p_now);
  return v_resumption_id;
end;
$_add_resumption$;

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
     and cardinality(r.deliveries) < p.stuck_after_deliveries;
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
-- lease. Tenants take turns. Delivered again when the lease ends without an acknowledgement.
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
  v_candidate record;
  v_resumption stepquota.workflow_run_resumptions;
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
  select p.stuck_after_deliveries into v_stuck_after from stepquota.policy p;

  for v_candidate in
    select c.tenant, c.resumption_id
      from (select r.tenant, r.resumption_id, r.created_at,
                   row_number() over (partition by r.tenant order by r.created_at, r.resumption_id) as turn
              from stepquota.workflow_run_resumptions r
             where r.runtime = p_runtime and r.status = 'OPEN'
               and (p_tenant is null or r.tenant = p_tenant)
               and (r.leased_until is null or r.leased_until <= v_now)) c
     order by c.turn, c.created_at, c.resumption_id
     -- More than asked for, since another worker may have some of them.
     limit p_max_runs * 4
  loop
    exit when p_max_runs = 0;
    select r.* into v_resumption
      from stepquota.workflow_run_resumptions r
     where r.tenant = v_candidate.tenant and r.resumption_id = v_candidate.resumption_id
       and r.status = 'OPEN' and (r.leased_until is null or r.leased_until <= v_now)
       for no key update skip locked;
    continue when not found;
    p_max_runs := p_max_runs - 1;
    tenant := v_resumption.tenant;
    resumption_id := v_resumption.resumption_id;
    run_id := v_resumption.run_id;
    node_paths := v_resumption.unentered_paths;
    delivery := nextval('stepquota.workflow_run_deliveries');
    wait_type := v_resumption.wait_type;
    leased_until := v_now + p_lease;
    payload := (stepquota._host_find_wait(v_resumption.tenant, v_resumption.wait_id)).payload;
    update stepquota.workflow_run_resumptions r
       set delivery = claim_workflow_run_resumptions.delivery,
           deliveries = r.deliveries || claim_workflow_run_resumptions.delivery,
           worker = p_worker,
           leased_until = claim_workflow_run_resumptions.leased_until
     where r.tenant = v_resumption.tenant and r.resumption_id = v_resumption.resumption_id;
    if cardinality(v_resumption.deliveries) + 1 = v_stuck_after then
      perform stepquota._record_event(v_resumption.tenant, 'resumption_stuck', 'error', v_resumption.run_id,
        jsonb_build_object('resumption_id', v_resumption.resumption_id, 'deliveries', v_stuck_after,
          'runtime', p_runtime, 'worker', p_worker, 'node_paths', to_jsonb(node_paths)), v_now);
    end if;
    return next;
  end loop;
end;
$claim_workflow_run_resumptions$;

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
  v_status text;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_resumption_id is null then
    perform stepquota._refuse_argument('p_resumption_id', null, 'a uuid', 'Pass the resumption_id that was claimed.');
  end if;
  select r.status into v_status
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
  if v_status <> 'OPEN' then
    return false;
  end if;
  update stepquota.workflow_run_resumptions
     set status = 'ACKNOWLEDGED', closed_at = v_now
   where tenant = p_tenant and resumption_id = p_resumption_id;
  return true;
end;
$acknowledge_workflow_run_resumption$;

comment on function stepquota._add_resumption(stepquota.workflow_runs, stepquota.workflow_run_waits, text[], timestamptz) is 'Adds a resumption to the outbox.';
comment on function stepquota._notify_resumptions() is 'Sends the hint that there are resumptions, where policy wants it.';
comment on function stepquota._enter_resumed_path(text, text, text, timestamptz) is 'Takes a path out of the run''s resumptions.';
comment on function stepquota._cancel_resumptions(text, text, timestamptz) is 'Cancels the resumptions of a run that has ended.';
comment on function stepquota._has_unentered_resumption(text, text) is 'Whether the run was resumed at a path that nobody has re-entered.';
comment on function stepquota._count_promised_units(text, timestamptz) is 'Units promised to resumptions handed out.';
comment on function stepquota._check_delivery(text, text, bigint) is 'Raises WQ007 for a delivery that is not the newest.';
comment on function stepquota.claim_workflow_run_resumptions(text, integer, interval, text, text) is
  'Hands runs to go on with to a worker, for a lease: tenant, resumption_id, run_id, the paths to re-enter (node_paths), delivery (pass it to start and finish), wait_type, leased_until, payload of the wait. p_max_runs 1 to 10000; p_tenant NULL is all tenants. Not acknowledged and not re-entered when the lease ends, they are delivered again. WQ001 bad arguments.';
comment on function stepquota.acknowledge_workflow_run_resumption(text, uuid) is
  'Says that the runtime has stored the hand-over durably; no further delivery. True the first time. Re-entering every path of it does the same. WQ001 bad arguments, WQ013 unknown resumption.';
