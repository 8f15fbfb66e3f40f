-- Internal functions of earlier releases that are no more, or that have other parameters now. Public
-- ones are dropped only where their result has grown, to be made again with the same parameters.

drop function if exists stepquota._give_limit_to_lane(text, timestamptz, bigint);
drop function if exists stepquota._take_unit(text, stepquota._found_quota, integer, timestamptz);
drop function if exists stepquota._take_unit(text, integer, timestamptz);
drop function if exists stepquota._describe_taken_unit(stepquota.workflow_step_quotas, integer, bigint, bigint);
drop function if exists stepquota._debug_reservation(stepquota.workflow_step_quotas, bigint);
drop function if exists stepquota._host_insert_step(text, text, text, integer, date, uuid, text, timestamptz, timestamptz);
drop function if exists stepquota._host_list_quota_queue(text);
drop function if exists stepquota._host_list_queued_tenants();
drop function if exists stepquota._resume_quota_wait(
  stepquota.workflow_runs, stepquota.workflow_run_waits, bigint, text, jsonb, timestamptz);
drop function if exists stepquota._claim_of_tenant(text, text, text, integer, interval, timestamptz);
drop function if exists stepquota._add_resumption(
  stepquota.workflow_runs, stepquota.workflow_run_waits, text[], timestamptz);
drop function if exists stepquota._carry_usage(stepquota.workflow_step_quotas, stepquota.workflow_step_quotas);
drop function if exists stepquota._host_count_steps(text, timestamptz);
drop function if exists stepquota._host_has_working_step(text, text, date);
drop function if exists stepquota._list_paused_input_hashes();
drop function if exists stepquota._host_list_paused_tenants();
drop function if exists stepquota._is_count_due(bigint, bigint, bigint, integer);

do $drop_for_more_columns$
begin
  if exists (
    select 1 from pg_catalog.pg_proc p
     where p.oid = pg_catalog.to_regprocedure('stepquota.workflow_run_quota_pause(text, text)')
       and 'reasons' <> all (p.proargnames)
  ) then
    drop function stepquota.workflow_run_quota_pause(text, text);
  end if;
  if exists (
    select 1 from pg_catalog.pg_proc p
     where p.oid = pg_catalog.to_regprocedure('stepquota.reconcile_workflow_step_usage(text, timestamptz)')
       and 'registered_step_count' <> all (p.proargnames)
  ) then
    drop function stepquota.reconcile_workflow_step_usage(text, timestamptz);
  end if;
  if exists (
    select 1 from pg_catalog.pg_proc p
     where p.oid = pg_catalog.to_regprocedure('stepquota.verify_all()') and 'violation' <> all (p.proargnames)
  ) then
    drop function stepquota.verify_all();
  end if;
  if exists (
    select 1 from pg_catalog.pg_proc p
     where p.oid = pg_catalog.to_regprocedure('stepquota._host_list_ended_runs(date, date[], timestamptz, integer)')
       and ('is_gone' = any (p.proargnames)) is not true
  ) then
    drop function stepquota._host_list_ended_runs(date, date[], timestamptz, integer);
  end if;
end;
$drop_for_more_columns$;
drop function if exists stepquota._store_stripe_product(jsonb, timestamptz, timestamptz);
drop function if exists stepquota._store_stripe_price(jsonb, timestamptz, timestamptz);
drop function if exists stepquota._store_stripe_customer(jsonb, timestamptz, timestamptz);
drop function if exists stepquota._store_stripe_subscription(jsonb, timestamptz, timestamptz);
drop function if exists stepquota._list_subscription_with_items(text);
drop function if exists stepquota._store_stripe_items(jsonb, text, timestamptz, timestamptz);
drop function if exists stepquota._list_stripe_tenants(text, text);
drop function if exists stepquota._store_stripe_object(jsonb, timestamptz);
