-- Figures for an exporter: right ones, few series, and what does not apply is left out.
-- transaction: none
select plan(29);
select set_clock('2026-04-15T12:00:00Z');
create function figure(p_name text, p_labels jsonb default '{}') returns double precision language sql as $$
  select m.value from stepquota.metrics() m where m.name = p_name and m.labels = p_labels
$$;
select is_empty($$select m.name, m.labels from stepquota.metrics() m group by 1, 2 having count(*) > 1$$, 'no series twice');
select is_empty($$select 1 from stepquota.metrics() m where m.name !~ '^stepquota_[a-z_]+$' or m.value is null or m.labels is null$$, 'names as exporters want them, and a value each');
select is(figure('stepquota_info_installed', jsonb_build_object('version', stepquota.version())), 1::double precision, 'the release');
select is_empty($$select 1 from stepquota.metrics('scan')$$, 'no scan has run');
select is_empty($$select 1 from stepquota.metrics('stripe')$$, 'there is no sync with Stripe');
select is_empty($$select 1 from stepquota.metrics('tenant')$$, 'and no tenant');
select is(figure('stepquota_item_state', '{"item": "scheduler"}'), 1::double precision, 'a warning of status');
select give_limit('acme', 4), use_units('acme', 4);
select count(pause_run('acme', 'r1')), count(pause_run('acme', 'r2'));
select give_limit('globex', null), use_units('globex', 7), give_limit('initech', 10), use_units('initech', 1);
select set_clock('2026-04-15T12:02:00Z');
select is(figure('stepquota_all_tenants'), 3::double precision, 'tenants');
select is(figure('stepquota_all_paused_tenants'), 1::double precision, 'paused tenants');
select is(figure('stepquota_all_paused_runs'), 2::double precision, 'paused runs');
select is(figure('stepquota_all_oldest_pause_seconds'), 120::double precision, 'since when');
select is(figure('stepquota_all_due_tenants'), 0::double precision, 'none is due');
select is(figure('stepquota_tenant_used_steps', '{"tenant": "acme"}'), 4::double precision, 'what a tenant has used');
select is(figure('stepquota_tenant_used_ratio', '{"tenant": "acme"}'), 1::double precision, 'of its limit');
select is(figure('stepquota_tenant_paused_runs', '{"tenant": "acme"}'), 2::double precision, 'and what is paused');
select is(figure('stepquota_tenant_limit_steps', '{"tenant": "globex"}'), null, 'an unlimited one has no limit');
select is(figure('stepquota_event_recent', '{"event_type": "run_paused", "level": "info"}'), 2::double precision, 'events of late');
select stepquota.set_policy('metrics_tenants', '2');
select set_eq($$select distinct labels ->> 'tenant' from stepquota.metrics('tenant')$$, array['globex', 'acme'], 'only those that use most have figures of their own');
select stepquota.set_policy('metrics_tenants', '0');
select is_empty($$select 1 from stepquota.metrics('tenant')$$, 'or none has');
select stepquota.set_policy('metrics_tenants', '20');
call stepquota.tick();
select is(figure('stepquota_scan_errors'), 0::double precision, 'a scan');
select set_clock('2026-05-01T01:00:00Z');
select is(figure('stepquota_all_due_tenants'), 1::double precision, 'the period is over, and a tenant is due');
select is(figure('stepquota_all_overdue_seconds'), 3600::double precision, 'for an hour');
call stepquota.tick();
select is(figure('stepquota_all_open_resumptions'), 2::double precision, 'resumptions to be taken');
select event_id from stepquota.claim_quota_events('mailer', 1, p_start_at => '-infinity');
select cmp_ok(figure('stepquota_consumer_behind_events', '{"consumer": "mailer"}'), '>', 3::double precision, 'a consumer that is behind');
update stepquota.workflow_step_usage_lanes set used_count = used_count + 3 where tenant = 'initech';
select stepquota.begin_reconciliation(true);
select stepquota.reconcile_tenant('initech', true);
select is((select sum(m.value) from stepquota.metrics('finding') m), 1::double precision, 'a finding of the reconciliation');
select refuses($$select * from stepquota.metrics('nothing')$$, 'WQ001', 'a part that there is not');
-- What tick has counted in the last two minutes is not counted again; what it has not, is.
select set_clock('2026-06-01T12:00:00Z');
select stepquota.summarize_tenants();
update stepquota.tenant_summary_state set tenants = 1000, paused_runs = 77;
select is(figure('stepquota_all_tenants') || ' ' || figure('stepquota_all_paused_runs'), '1000 77', 'of the last round');
select set_clock('2026-06-01T12:01:59Z');
select is(figure('stepquota_all_tenants'), 1000::double precision, 'for two minutes');
select set_clock('2026-06-01T12:02:00Z');
select isnt(figure('stepquota_all_tenants') || ' ' || figure('stepquota_all_paused_runs'), '1000 77', 'then they are counted');
select * from finish();
