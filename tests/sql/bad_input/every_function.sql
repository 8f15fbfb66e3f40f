-- Bad input to any function: an error of class WQ with DETAIL and HINT, and nothing written. Every
-- function is called with each argument missing, empty, too long or out of range; a function that is
-- neither here nor among those without arguments fails the last assertion.
begin;
set local client_min_messages = error;
create temp table good (function text, place integer, argument text, value text, bad text[]);
-- A good value of each argument, and the bad ones ('' is an empty text, NULL is missing).
insert into good values
  ('reserve_workflow_step', 1, 'text', 'acme', null),
  ('reserve_workflow_steps', 1, 'text', 'acme', null), ('reserve_workflow_steps', 2, 'integer', '1', '{NULL,0,-1}'), ('reserve_workflow_steps', 3, 'boolean', 'true', '{NULL}'),
  ('open_workflow_step_batch', 1, 'text', 'acme', null), ('open_workflow_step_batch', 2, 'uuid', '00000000-0000-0000-0000-00000000000a', '{NULL}'), ('open_workflow_step_batch', 3, 'integer', '1', '{NULL,0,-1}'),
  ('open_workflow_step_batch', 4, 'text', 'me', null), ('open_workflow_step_batch', 5, 'uuid[]', '{00000000-0000-0000-0000-00000000000b}', '{NULL,"{}","{NULL}","{00000000-0000-0000-0000-00000000000b,NULL}"}'),
  ('open_workflow_step_batch', 6, 'bigint[]', '{1}', '{NULL,"{}","{NULL}","{-1}","{1,1}"}'),
  ('close_workflow_step_batch', 1, 'text', 'acme', null), ('close_workflow_step_batch', 2, 'uuid', '00000000-0000-0000-0000-00000000000b', '{NULL,00000000-0000-0000-0000-00000000000c}'),
  ('close_workflow_step_batch', 3, 'bigint', '1', '{NULL,-1,3}'),
  ('claim_quota_events', 1, 'text', 'consumer', null), ('claim_quota_events', 2, 'integer', '1', '{NULL,0,-1,10001}'), ('claim_quota_events', 3, 'interval', '1 minute', '{NULL,0,-1 minute,25 hours}'),
  ('claim_quota_events', 4, 'text[]', '{quota_exhausted}', '{"{}","{NULL}","{quota_exhausted,none}"}'), ('claim_quota_events', 5, 'timestamptz', '2026-04-01Z', '{}'),
  ('acknowledge_quota_events', 1, 'text', 'consumer', null), ('acknowledge_quota_events', 2, 'bigint[]', '{1}', '{NULL,"{1,NULL}"}'),
  ('remove_quota_event_consumer', 1, 'text', 'consumer', null), ('order_quota_events', 1, 'integer', '1', '{NULL,0,-1}'),
  ('sample_workflow_step_usage', 1, 'integer', '1', '{NULL,0,-1}'), ('forecast_workflow_step_usage', 1, 'text', 'acme', null),
  ('peek_workflow_step_quota', 1, 'text', 'acme', null), ('peek_workflow_step_exhaustion', 1, 'text', 'acme', null), ('metrics', 1, 'text', 'all', '{"",nonsense}'),
  ('record_due_alerts', 1, 'text', '', '{NULL}'), ('record_due_alerts', 2, 'integer', '1', '{NULL,0,-1}'),
  ('tend_workflow_step_batches', 1, 'integer', '1', '{NULL,0,-1}'),
  ('start_workflow_steps', 1, 'text', 'acme', null), ('start_workflow_steps', 2, 'text', 'r', null), ('start_workflow_steps', 3, 'text[]', '{root}', '{NULL,"{}","{NULL}"}'),
  ('start_workflow_steps', 4, 'integer[]', '{1}', '{"{0}","{1,1}","{NULL}"}'), ('start_workflow_steps', 5, 'text', 'action', null), ('start_workflow_steps', 6, 'bigint', null, '{0,-1,7}'),
  ('resolve_workflow_step_quota', 1, 'text', 'acme', null),
  ('refresh_workflow_step_quota', 1, 'text', 'acme', null),
  ('explain_workflow_step_quota', 1, 'text', 'acme', null),
  ('register_workflow_run', 1, 'text', 'acme', null), ('register_workflow_run', 2, 'text', 'new', null),
  ('register_workflow_run', 3, 'text', 'flow', '{""}'), ('register_workflow_run', 4, 'text', 'default', null),
  ('start_workflow_step', 1, 'text', 'acme', null), ('start_workflow_step', 2, 'text', 'r', null), ('start_workflow_step', 3, 'text', 'root', null),
  ('start_workflow_step', 4, 'integer', '1', '{NULL,0,-1}'), ('start_workflow_step', 5, 'text', 'action', null), ('start_workflow_step', 6, 'bigint', null, '{0,-1,7}'),
  ('finish_workflow_step', 1, 'text', 'acme', null), ('finish_workflow_step', 2, 'text', 'r', null), ('finish_workflow_step', 3, 'text', 'started', null),
  ('finish_workflow_step', 4, 'integer', '1', '{NULL,0,-1}'), ('finish_workflow_step', 5, 'text', 'SUCCEEDED', '{NULL,"",succeeded,STARTED,DONE}'),
  ('finish_workflow_step', 6, 'jsonb', null, '{}'), ('finish_workflow_step', 7, 'bigint', null, '{0,7}'),
  ('finish_workflow_run', 1, 'text', 'acme', null), ('finish_workflow_run', 2, 'text', 'r', null),
  ('finish_workflow_run', 3, 'text', 'SUCCEEDED', '{NULL,"",RUNNING,WAITING,DONE}'), ('finish_workflow_run', 4, 'jsonb', null, '{}'), ('finish_workflow_run', 5, 'bigint', null, '{0,7}'),
  ('cancel_workflow_run', 1, 'text', 'acme', null), ('cancel_workflow_run', 2, 'text', 'r', null),
  ('open_workflow_run_wait', 1, 'text', 'acme', null), ('open_workflow_run_wait', 2, 'text', 'r', null), ('open_workflow_run_wait', 3, 'text', 'started', null),
  ('open_workflow_run_wait', 4, 'text', 'time', '{NULL,"",quota,Event}'), ('open_workflow_run_wait', 5, 'timestamptz', '2026-05-01Z', '{NULL}'), ('open_workflow_run_wait', 6, 'jsonb', null, '{}'),
  ('resolve_workflow_run_wait', 1, 'text', 'acme', null), ('resolve_workflow_run_wait', 2, 'uuid', null, '{NULL,00000000-0000-0000-0000-000000000001}'), ('resolve_workflow_run_wait', 3, 'jsonb', null, '{}'),
  ('resume_workflow_run', 1, 'text', 'acme', null), ('resume_workflow_run', 2, 'text', 'paused', null), ('resume_workflow_run', 3, 'text', 'asked for', '{}'),
  ('hold_workflow_run', 1, 'text', 'acme', null), ('hold_workflow_run', 2, 'text', 'r', null), ('hold_workflow_run', 3, 'text', 'asked for', null),
  ('release_workflow_run', 1, 'text', 'acme', null), ('release_workflow_run', 2, 'text', 'r', null), ('release_workflow_run', 3, 'text', 'asked for', null),
  ('hold_tenant', 1, 'text', 'acme', null), ('hold_tenant', 2, 'text', 'asked for', null), ('release_tenant', 1, 'text', 'acme', null), ('release_tenant', 2, 'text', 'asked for', null),
  ('suspend_tenant', 1, 'text', 'acme', null), ('suspend_tenant', 2, 'text', 'asked for', null), ('reinstate_tenant', 1, 'text', 'acme', null), ('reinstate_tenant', 2, 'text', 'asked for', null),
  ('claim_workflow_run_resumptions', 1, 'text', 'worker', null), ('claim_workflow_run_resumptions', 2, 'integer', '1', '{NULL,0,-1,10001}'),
  ('claim_workflow_run_resumptions', 3, 'interval', '1 minute', '{NULL,0,-1 minute,25 hours,1000000 years}'), ('claim_workflow_run_resumptions', 4, 'text', 'default', null),
  ('claim_workflow_run_resumptions', 5, 'text', 'acme', '{""}'),
  ('acknowledge_workflow_run_resumption', 1, 'text', 'acme', null), ('acknowledge_workflow_run_resumption', 2, 'uuid', null, '{NULL,00000000-0000-0000-0000-000000000001}'),
  ('redeliver_workflow_run_resumption', 1, 'text', 'acme', null), ('redeliver_workflow_run_resumption', 2, 'uuid', null, '{NULL,00000000-0000-0000-0000-000000000001}'),
  ('workflow_run_quota_pause', 1, 'text', 'acme', null), ('workflow_run_quota_pause', 2, 'text', 'paused', null),
  ('reconcile_workflow_step_usage', 1, 'text', 'acme', null), ('reconcile_workflow_step_usage', 2, 'timestamptz', '2026-04-01Z', '{NULL,2026-04-02Z,infinity,-infinity}'),
  ('reconcile_tenant', 1, 'text', 'acme', null), ('reconcile_tenant', 2, 'boolean', 'false', '{NULL}'),
  ('reconcile_all', 1, 'boolean', 'false', '{NULL}'), ('begin_reconciliation', 1, 'boolean', 'false', '{NULL}'),
  ('list_tenants_to_reconcile', 1, 'integer', '1', '{NULL,0,-1}'), ('list_tenants_to_reconcile', 2, 'timestamptz', '2026-04-01Z', '{}'), ('list_tenants_to_reconcile', 3, 'text[]', '{}', '{NULL}'),
  ('repair_workflow_step_usage', 1, 'text', 'acme', null), ('repair_workflow_step_usage', 2, 'timestamptz', '2026-04-01Z', '{NULL,2026-04-02Z,infinity,-infinity}'),
  ('repair_workflow_step_usage', 3, 'boolean', 'false', '{NULL}'), ('repair_workflow_step_usage', 4, 'text', 'why', '{}'),
  ('import_workflow_step_usage', 1, 'text', 'acme', null), ('import_workflow_step_usage', 2, 'timestamptz', '2026-04-01Z', '{NULL,2026-04-02Z,infinity,-infinity}'),
  ('import_workflow_step_usage', 3, 'bigint', '1', '{NULL,-1,1000000000000000001}'), ('import_workflow_step_usage', 4, 'text', 'why', '{}'),
  ('register_ledger', 1, 'text', 'charges', null), ('register_ledger', 2, 'text', 'app.charges', null), ('register_ledger', 3, 'text', 'tenant', null),
  ('register_ledger', 4, 'text', null, '{""}'), ('register_ledger', 5, 'text', 'at', '{NULL,""}'), ('register_ledger', 6, 'text', null, '{""}'),
  ('unregister_ledger', 1, 'text', 'charges', null),
  ('grant_role', 1, 'text', 'pg_monitor', '{NULL,"",nobody there,public,stepquota_runtime}'), ('grant_role', 2, 'text', 'runtime', '{NULL,"",Runtime,owner}'),
  ('revoke_role', 1, 'text', 'pg_monitor', '{NULL,"",nobody there,public,stepquota_runtime}'), ('revoke_role', 2, 'text', 'runtime', '{NULL,"",Runtime,owner}'),
  ('purge', 1, 'integer', '1', '{NULL,0,-1,100001}'), ('purge_rows', 1, 'text', 'logs', '{NULL,"",tenants}'), ('purge_rows', 2, 'integer', '1', '{NULL,0,-1}'),
  ('purge_cron_history', 1, 'integer', '1', '{NULL,0,-1}'), ('forget_tenant', 1, 'text', 'acme', null), ('forget_tenant', 2, 'integer', '1', '{NULL,0,-1}'),
  ('set_tenant_plan', 1, 'text', 'acme', null), ('set_tenant_plan', 2, 'text', 'pro', '{"",gold}'),
  ('grant_workflow_steps', 1, 'text', 'acme', null), ('grant_workflow_steps', 2, 'bigint', '1', '{NULL,0,-1,1000000000001}'), ('grant_workflow_steps', 3, 'text', 'asked for', null),
  ('grant_workflow_steps', 4, 'timestamptz', null, '{infinity,2026-04-15Z,2026-04-14Z}'), ('grant_workflow_steps', 5, 'text', null, '{}'),
  ('revoke_workflow_step_grant', 1, 'text', 'acme', null), ('revoke_workflow_step_grant', 2, 'uuid', '00000000-0000-0000-0000-000000000001', '{NULL,00000000-0000-0000-0000-000000000001}'), ('revoke_workflow_step_grant', 3, 'text', 'asked for', null),
  ('set_tenant_enforcement', 1, 'text', 'acme', null), ('set_tenant_enforcement', 2, 'text', 'shadow', '{"",Shadow,off}'), ('list_shadow_overruns', 1, 'text', 'acme', '{""}'),
  ('bind_tenant_role', 1, 'text', 'stepquota_runtime', '{NULL,"",nobody,stepquota_runtime}'), ('bind_tenant_role', 2, 'text', 'acme', null), ('unbind_tenant_role', 1, 'text', 'nobody', null),
  ('set_tier_limit', 1, 'text', 'pro', null), ('set_tier_limit', 2, 'bigint', '5', '{0,-1}'),
  ('set_policy', 1, 'text', 'staleness', '{NULL,"",nonsense,epoch}'), ('set_policy', 2, 'text', '10 seconds', '{NULL,"",soon,-1 second}'),
  ('map_stripe_customer', 1, 'text', 'cus_1', null), ('map_stripe_customer', 2, 'text', 'acme', null),
  ('apply_stripe_object', 1, 'jsonb', '{"object": "product", "id": "prod_1"}', '{NULL,null,[],5,"{}"}'), ('apply_stripe_object', 2, 'timestamptz', '2026-04-01Z', '{NULL,infinity}'),
  ('unmap_stripe_customer', 1, 'text', 'cus_1', null), ('spread_stripe_changes', 1, 'integer', '1', '{NULL,0,100001}'),
  ('record_stripe_events', 1, 'jsonb', '[]', '{NULL,"{}","[{}]","[5]","[{\"id\": \"evt_1\"}]"}'), ('record_stripe_events', 2, 'text', 'webhook', '{NULL,"",post}'),
  ('claim_stripe_events', 1, 'integer', '1', '{NULL,0,10001}'), ('claim_stripe_events', 2, 'interval', '1 minute', '{NULL,0,1 day}'),
  ('finish_stripe_events', 1, 'text[]', '{}', '{NULL,"{NULL}"}'), ('requeue_stripe_events', 1, 'text[]', '{}', '{"{NULL}"}'), ('tend_stripe_events', 1, 'integer', '1', '{NULL,0}'),
  ('fail_stripe_events', 1, 'text[]', '{}', '{NULL,"{NULL}"}'), ('fail_stripe_events', 2, 'text', 'busy', '{NULL}'), ('fail_stripe_events', 3, 'boolean', 'true', '{NULL}'), ('fail_stripe_events', 4, 'interval', null, '{}'),
  ('bind_stripe_mirror', 1, 'text', null, '{}'), ('bind_stripe_mirror', 2, 'boolean', 'true', '{NULL}'), ('bind_stripe_mirror', 3, 'text', 'v', '{}'),
  ('finish_stripe_catch_up', 1, 'timestamptz', null, '{}'), ('check_stripe', 1, 'integer', '1', '{NULL,0}'),
  ('begin_stripe_sync', 1, 'text', 'me', null), ('begin_stripe_sync', 2, 'boolean', 'false', '{NULL}'),
  -- No full sync is running here.
  ('store_stripe_page', 1, 'text', 'me', null), ('store_stripe_page', 2, 'text', 'price', '{NULL,"",invoice,price}'), ('store_stripe_page', 3, 'jsonb', '[]', '{NULL,"{}","[5]"}'),
  ('store_stripe_page', 4, 'timestamptz', '2026-04-01Z', '{NULL,infinity}'), ('store_stripe_page', 5, 'boolean', 'true', '{NULL}'),
  ('list_unseen_stripe_objects', 1, 'text', 'me', null), ('list_unseen_stripe_objects', 2, 'boolean', 'false', '{NULL,false}'),
  ('finish_stripe_sync', 1, 'text', 'me', null), ('finish_stripe_sync', 2, 'jsonb', '{}', '{NULL,[],"{}"}'), ('release_stripe_sync', 1, 'text', 'me', null),
  ('resume_scan', 1, 'integer', '1', '{NULL,0,-1,100001}'),
  ('make_ledger_partitions', 1, 'integer', '1', '{NULL,-1,121}'),
  ('resolve_due_waits', 1, 'integer', '1', '{NULL,0,-1}'),
  ('check_batch_size', 1, 'integer', '1', '{NULL,0,-1}'),
  ('resume_due_tenant', 1, 'text', 'acme', null), ('resume_due_tenant', 2, 'integer', '1', '{NULL,0,-1}'),
  ('list_due_tenants', 1, 'integer', '1', '{NULL,0,-1}'), ('list_due_tenants', 2, 'text[]', '{}', '{NULL}'),
  ('watch', 1, 'integer', '1', '{NULL,0,-1,3601}'), ('check_watch_seconds', 1, 'integer', '1', '{NULL,0,-1,3601}'), ('find_next_due_tenant', 1, 'text[]', '{}', '{NULL}'),
  ('finish_resume_scan', 1, 'bigint', '1', '{NULL}'), ('finish_resume_scan', 2, 'integer', '1', '{NULL}'), ('finish_resume_scan', 3, 'integer', '1', '{NULL}'),
  ('finish_resume_scan', 4, 'jsonb', '{}', '{NULL}'), ('finish_resume_scan', 5, 'jsonb', '[]', '{NULL,"{}",5}'),
  ('record_scheduler_job', 1, 'text', 'job', null), ('record_scheduler_job', 2, 'text', '* * * * *', '{""}'), ('record_scheduler_job', 3, 'text', 'call x()', '{NULL,""}'), ('record_scheduler_job', 4, 'text', 'someone', '{NULL,""}'),
  -- Without pg_cron in this database any schedule is refused.
  ('enable_cron', 1, 'text', '* * * * *', '{NULL,"",* * * * *}'), ('check_cron', 1, 'text', '* * * * *', '{NULL,"",* * * * *}');
-- Texts that are keys or names: missing, empty, too long.
update good set bad = array[null, '', repeat('x', 2000)] where bad is null;
update good set bad = array['', repeat('x', 2000)] where function = 'grant_workflow_steps' and place = 5;

create temp table calls as
select g.function, format('%s %s.%s(%s)', case when p.prokind = 'p' then 'call' else 'select * from' end, 'stepquota', g.function, string_agg(
         format('%s::%s', case when a.place = g.place then quote_nullable(b.value) else quote_nullable(a.value) end, a.argument), ', ' order by a.place)) as statement,
       format('%s: argument %s is %s', g.function, g.place, left(quote_nullable(b.value), 30)) as description
  from good g
  cross join lateral unnest(g.bad) with ordinality as b (value, number)
  join good a on a.function = g.function
  join pg_proc p on p.proname = g.function and p.pronamespace = 'stepquota'::regnamespace
 group by g.function, g.place, b.value, b.number, p.prokind;

select plan((select count(*)::integer + 1 from calls));
select set_clock('2026-04-15Z');
select give_limit('acme', 1);
select (stepquota.register_workflow_run('acme', 'r')).status, (stepquota.start_workflow_step('acme', 'r', 'started')).outcome;
select pause_run('acme', 'paused');
select (stepquota.set_tier_limit('tier of acme', 3)).changed, (stepquota.open_workflow_step_batch('acme', '00000000-0000-0000-0000-00000000000b', 2, 'me')).granted;

create function pg_temp.refuses_class(p_statement text, p_description text) returns text language plpgsql as $$
declare
  v_before jsonb := tap.count_rows();
  v_sqlstate text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  begin
    execute p_statement;
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  end;
  return tap.ok(coalesce(v_sqlstate ~ '^WQ' and v_detail <> '' and v_hint <> '' and tap.count_rows() = v_before, false), p_description)
    || case when coalesce(v_sqlstate, '') !~ '^WQ' or v_detail = '' or v_hint = ''
         then E'\n' || tap.diag(format('%s gave %s: %s; detail %L, hint %L', left(p_statement, 200), coalesce(v_sqlstate, 'no error'), v_message, v_detail, v_hint)) else '' end;
end;
$$;
select pg_temp.refuses_class(c.statement, c.description) from calls c order by c.description;

select set_eq(
  $$select p.proname::text from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.proname !~ '^_'$$,
  $$select function from good union values ('version'), ('verify_all'), ('status'), ('cron_sql'), ('disable_cron'), ('tick'), ('begin_resume_scan'), ('confirm_workflow_step_quotas'), ('get_scan_seconds'), ('get_maintenance_seconds'), ('get_cron_history_cutoff'),
      -- Answers what it is asked with.
      ('list_cron_jobs'), ('list_visible_tenants'), ('list_tenant_role_bindings'), ('count_seconds_until'), ('find_next_due_wait'), ('list_open_workflow_step_batches'), ('list_stripe_witnesses'), ('begin_stripe_catch_up'), ('stripe_sync_health'),
      -- For views.
      ('clock'), ('current_epoch')$$, 'every function is here');
select * from finish();
rollback;
