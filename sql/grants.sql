-- Who may do what. The whole truth on every load: everything is taken from PUBLIC and from our four
-- roles, then given again, so that no grant of an earlier release survives. Grants to other roles are
-- the installer's and stay.

do $grants$
declare
  v_grants constant jsonb := $json${
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
      "watch", "find_next_due_tenant", "find_next_due_wait", "count_seconds_until", "check_watch_seconds",
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
      "stripe_sync_health", "check_stripe", "clock", "current_epoch", "peek_workflow_step_quota", "peek_workflow_step_exhaustion",
      "metrics"]
  }$json$;
  v_role text;
  v_routine regprocedure;
  v_type regtype;
  v_table regclass;
begin
  revoke all on schema stepquota from public;
  revoke all on all tables in schema stepquota from public;
  revoke all on all sequences in schema stepquota from public;
  revoke all on all routines in schema stepquota from public;
  for v_type in
    select t.oid from pg_catalog.pg_type t
     where t.typnamespace = 'stepquota'::pg_catalog.regnamespace and t.typtype = 'c'
       and exists (select 1 from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c')
  loop
    execute pg_catalog.format('revoke all on type %s from public', v_type);
  end loop;

  for v_role in
    select r.role from pg_catalog.jsonb_object_keys(v_grants) as r (role)
     where exists (select 1 from pg_catalog.pg_roles p where p.rolname = r.role)
     order by r.role
  loop
    execute pg_catalog.format('revoke all on all tables in schema stepquota from %I', v_role);
    execute pg_catalog.format('revoke all on all sequences in schema stepquota from %I', v_role);
    execute pg_catalog.format('revoke all on all routines in schema stepquota from %I', v_role);
    execute pg_catalog.format('grant usage on schema stepquota to %I', v_role);
    for v_routine in
      select p.oid from pg_catalog.pg_proc p
       where p.pronamespace = 'stepquota'::pg_catalog.regnamespace and v_grants -> v_role ? p.proname::text
       order by p.proname, p.oid
    loop
      execute pg_catalog.format('grant execute on routine %s to %I', v_routine, v_role);
    end loop;
    if v_role in ('stepquota_observer', 'stepquota_operator') then
      -- Partitions are read through their parent, and made between loads.
      for v_table in
        select c.oid from pg_catalog.pg_class c
         where c.relnamespace = 'stepquota'::pg_catalog.regnamespace and c.relkind in ('r', 'p', 'v')
           and not c.relispartition
         order by c.relname
      loop
        execute pg_catalog.format('grant select on table %s to %I', v_table, v_role);
      end loop;
    end if;
  end loop;
end;
$grants$;
