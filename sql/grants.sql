-- Who may do what. The whole truth on every load: everything is taken from PUBLIC and from our four
-- roles, then given again, so that no grant of an earlier release survives. Grants to other roles are
-- the installer's and stay;
-- those of grant_role are stated again.

-- The functions of each of the rights, by name.
create or replace function stepquota._list_granted_routines()
returns jsonb
language sql
immutable
as $_list_granted_routines$
  select $json${
    "stepquota_runtime": [
      "version", "reserve_workflow_step", "reserve_workflow_steps", "open_workflow_step_batch",
      "close_workflow_step_batch", "resolve_workflow_step_quota", "register_workflow_run",
      "start_workflow_step", "start_workflow_steps", "finish_workflow_step", "finish_workflow_run", "cancel_workflow_run",
      "open_workflow_run_wait", "resolve_workflow_run_wait", "claim_workflow_run_resumptions",
      "acknowledge_workflow_run_resumption", "workflow_run_quota_pause"],
    "stepquota_operator": [
      "version", "reserve_workflow_step", "reserve_workflow_steps", "open_workflow_step_batch",
      "close_workflow_step_batch", "resolve_workflow_step_quota", "register_workflow_run",
      "start_workflow_step", "start_workflow_steps", "finish_workflow_step", "finish_workflow_run", "cancel_workflow_run",
      "open_workflow_run_wait", "resolve_workflow_run_wait", "claim_workflow_run_resumptions",
      "acknowledge_workflow_run_resumption", "workflow_run_quota_pause",
      "explain_workflow_step_quota", "refresh_workflow_step_quota", "resume_workflow_run",
      "hold_workflow_run", "release_workflow_run", "hold_tenant", "release_tenant",
      "suspend_tenant", "reinstate_tenant",
      "set_tenant_plan", "set_tenant_enforcement", "list_shadow_overruns",
      "grant_workflow_steps", "revoke_workflow_step_grant",
      "bind_tenant_role", "unbind_tenant_role", "list_tenant_role_bindings", "list_visible_tenants",
      "set_tier_limit", "set_policy", "map_stripe_customer", "unmap_stripe_customer",
      "spread_stripe_changes", "tend_stripe_events", "requeue_stripe_events", "stripe_sync_health", "check_stripe",
      "reconcile_workflow_step_usage", "list_open_workflow_step_batches", "verify_all", "status",
      "claim_quota_events", "acknowledge_quota_events", "remove_quota_event_consumer", "order_quota_events",
      "record_due_alerts", "sample_workflow_step_usage", "forecast_workflow_step_usage",
      "redeliver_workflow_run_resumption", "resume_scan", "tick", "begin_resume_scan", "list_due_tenants", "resume_due_tenant",
      "reconcile_all", "reconcile_tenant", "begin_reconciliation", "list_tenants_to_reconcile", "get_maintenance_seconds",
      "repair_workflow_step_usage", "import_workflow_step_usage", "register_ledger", "unregister_ledger",
      "purge", "purge_rows", "purge_cron_history", "get_cron_history_cutoff", "forget_tenant",
      "finish_resume_scan", "get_scan_seconds", "check_batch_size", "resolve_due_waits",
      "watch", "confirm_workflow_step_quotas", "find_next_due_tenant", "find_next_due_wait", "count_seconds_until", "check_watch_seconds",
      "make_ledger_partitions", "tend_workflow_step_batches", "enable_cron", "disable_cron", "cron_sql", "record_scheduler_job",
      "check_cron", "list_cron_jobs", "clock", "current_epoch", "peek_workflow_step_quota", "peek_workflow_step_exhaustion", "metrics"],
    "stepquota_sync": [
      "version", "apply_stripe_object", "map_stripe_customer", "unmap_stripe_customer", "status",
      "record_stripe_events", "claim_stripe_events", "finish_stripe_events", "fail_stripe_events",
      "requeue_stripe_events", "bind_stripe_mirror", "list_stripe_witnesses", "begin_stripe_catch_up",
      "finish_stripe_catch_up", "begin_stripe_sync", "store_stripe_page", "list_unseen_stripe_objects",
      "finish_stripe_sync", "release_stripe_sync", "stripe_sync_health", "check_stripe", "tend_stripe_events",
      "spread_stripe_changes", "resume_scan", "begin_resume_scan", "list_due_tenants", "resume_due_tenant",
      "finish_resume_scan", "get_scan_seconds", "check_batch_size"],
    "stepquota_observer": [
      "version", "resolve_workflow_step_quota", "explain_workflow_step_quota", "workflow_run_quota_pause",
      "reconcile_workflow_step_usage", "list_open_workflow_step_batches", "list_shadow_overruns", "verify_all", "status",
      "cron_sql", "list_cron_jobs", "forecast_workflow_step_usage", "claim_quota_events", "acknowledge_quota_events",
      "stripe_sync_health", "check_stripe", "list_tenant_role_bindings", "list_visible_tenants",
      "clock", "current_epoch", "peek_workflow_step_quota", "peek_workflow_step_exhaustion", "metrics"]
  }$json$::jsonb;
$_list_granted_routines$;

comment on function stepquota._list_granted_routines() is 'Internal: what each of the four roles may call, as arrays of names by role.';

do $grants$
declare
  v_grants constant jsonb := stepquota._list_granted_routines();
  v_role text;
  v_type regtype;
  v_default record;
begin
  -- The record of migrations too: default privileges may have given it away.
  if pg_catalog.to_regnamespace('stepquota_migrations') is not null then
    revoke all on schema stepquota_migrations from public;
    revoke all on all tables in schema stepquota_migrations from public;
  end if;
  revoke all on schema stepquota from public cascade;
  revoke all on all tables in schema stepquota from public cascade;
  revoke all on all sequences in schema stepquota from public cascade;
  revoke all on all routines in schema stepquota from public cascade;
  for v_type in
    select t.oid from pg_catalog.pg_type t
     where t.typnamespace = 'stepquota'::pg_catalog.regnamespace and t.typtype = 'c'
       and exists (select 1 from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c')
  loop
    execute pg_catalog.format('revoke all on type %s from public cascade', v_type);
    for v_role in
      select r.role from pg_catalog.jsonb_object_keys(v_grants) as r (role)
       where exists (select 1 from pg_catalog.pg_roles p where p.rolname = r.role)
    loop
      execute pg_catalog.format('revoke all on type %s from %I cascade', v_type, v_role);
    end loop;
  end loop;
  -- Default privileges would give rights to what is made between loads.
  for v_default in
    select d.defaclrole::pg_catalog.regrole as giver, a.grantee,
           case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'routines' else 'types' end as kind
      from pg_catalog.pg_default_acl d
     cross join lateral pg_catalog.aclexplode(d.defaclacl) a
     where d.defaclnamespace = 'stepquota'::pg_catalog.regnamespace
       and (a.grantee = 0 or exists (select 1 from pg_catalog.pg_roles p where p.oid = a.grantee and v_grants ? p.rolname::text))
       and pg_catalog.pg_has_role(d.defaclrole, 'USAGE')
     group by d.defaclrole, a.grantee, d.defaclobjtype
  loop
    execute pg_catalog.format('alter default privileges for role %s in schema stepquota revoke all on %s from %s cascade',
      v_default.giver, v_default.kind,
      case when v_default.grantee = 0 then 'public' else v_default.grantee::pg_catalog.regrole::text end);
  end loop;

  for v_role in
    select r.role from pg_catalog.jsonb_object_keys(v_grants) as r (role)
     where exists (select 1 from pg_catalog.pg_roles p where p.rolname = r.role)
     order by r.role
  loop
    perform stepquota._revoke_direct_rights(v_role);
    perform stepquota._grant_direct_rights(v_role, v_role);
  end loop;
  perform stepquota._restate_role_grants();

  -- Who was given a table by the installer asks what row-level security asks.
  for v_role in
    select distinct a.grantee::pg_catalog.regrole::text
      from pg_catalog.pg_class c
     cross join lateral pg_catalog.aclexplode(c.relacl) a
     where c.relnamespace = 'stepquota'::pg_catalog.regnamespace and a.privilege_type = 'SELECT'
       and a.grantee <> 0 and a.grantee <> c.relowner
     order by 1
  loop
    execute pg_catalog.format('grant execute on function stepquota.list_visible_tenants(text) to %s', v_role);
  end loop;
end;
$grants$;

do $secure_tables$
begin
  -- What the types of events are is no secret.
  perform stepquota._secure_table(c.oid)
    from pg_catalog.pg_class c
   where c.relnamespace = 'stepquota'::pg_catalog.regnamespace and c.relkind in ('r', 'p')
     and c.relname <> 'quota_event_types'
   order by c.relname;
end;
$secure_tables$;
