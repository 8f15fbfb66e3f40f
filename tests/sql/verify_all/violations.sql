-- Each violation is seen, by its name and with the tenant and the object; a sound installation gives no row.
begin;
select plan(46);
select set_clock('2026-04-15Z');
select give_limit('acme', 2), use_units('acme', 2);
select isnt(pause_run('acme', 'r'), null, 'a paused run');
select give_limit('rich', 5), use_units('rich', 1);
select (stepquota.register_workflow_run('rich', 'r')).status, (stepquota.start_workflow_step('rich', 'r', 'a')).outcome;
-- One that was resumed and claimed, with another delivery before.
select give_limit('back', 1), use_units('back', 1), pause_run('back', 'r', 'a'), give_limit('back', 2);
select delivery is not null from stepquota.claim_workflow_run_resumptions('w');
select set_clock('2026-04-15 00:02Z');
select delivery is not null from stepquota.claim_workflow_run_resumptions('w');
select (stepquota.grant_workflow_steps('rich', 3, 'a courtesy')).units;
select granted from stepquota.open_workflow_step_batch('batches', gen_random_uuid(), 3, 'a process');
select subscribe('payer', '"9"'), (stepquota.resolve_workflow_step_quota('payer')).effective_limit;
select count(*) >= 0 from stepquota.claim_quota_events('billing', 5, p_start_at => '-infinity');
select is_empty('select * from stepquota.verify_all()', 'a sound installation');

create function pg_temp.seen(p_damage text) returns text[] language plpgsql as $$
declare
  v_seen text[];
begin
  begin
    execute p_damage;
    v_seen := array(select distinct concat_ws(' ', v.violation, v.tenant, v.object) from stepquota.verify_all() v order by 1);
    raise exception using errcode = 'XX999', message = 'undo';
  exception when sqlstate 'XX999' then
    null;
  end;
  return v_seen;
end;
$$;
create function pg_temp.sees(p_damage text, p_seen text, p_description text) returns text language sql as $$
  select ok(coalesce(bool_or(s like p_seen), false), p_description || ' (' || p_seen || ')')
         || case when coalesce(bool_or(s like p_seen), false) then '' else E'\n# seen: ' || coalesce(string_agg(s, ', '), 'nothing') end
    from unnest(pg_temp.seen(p_damage)) as s
$$;
-- Exactly these, where nothing else comes of it.
create function pg_temp.sees_only(p_damage text, p_seen text, p_description text) returns text language sql as $$
  select is(pg_temp.seen(p_damage), array[p_seen], p_description)
$$;
create function pg_temp.april(p_tenant text, p_name text) returns text language sql as $$
  select p_name || ' ' || p_tenant || ' ' || '2026-04-01 00:00:00+00'::timestamptz::text
$$;

-- Quotas and lanes
select pg_temp.sees_only($$update stepquota.workflow_step_usage_lanes set allowance = 7 where tenant = 'rich'$$, pg_temp.april('rich', 'lanes_off_limit'), 'a lane that owns too little');
select pg_temp.sees_only($$update stepquota.workflow_step_usage_lanes set allowance = null where tenant = 'rich'$$, pg_temp.april('rich', 'lanes_off_limit'), 'or all');
select pg_temp.sees_only($$update stepquota.workflow_step_quotas set lane_count = 2 where tenant = 'rich'$$, pg_temp.april('rich', 'lanes_not_numbered'), 'a lane that the quota has and is not there');
select pg_temp.sees_only($$update stepquota.workflow_step_usage_lanes set lane = 1 where tenant = 'rich'$$, pg_temp.april('rich', 'lanes_not_numbered'), 'no lane 0');
select pg_temp.sees($$delete from stepquota.workflow_step_usage_lanes where tenant = 'rich'$$, pg_temp.april('rich', 'period_without_lane'), 'no lane at all');
select pg_temp.sees($$update stepquota.workflow_step_usage_lanes set unledgered_count = -1 where tenant = 'rich'$$, pg_temp.april('rich', 'lane_counts_nonsense'), 'a count below 0');
select pg_temp.sees_only($$insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, generation) select l.tenant, l.period_start, l.lane, 0, 9 from stepquota.workflow_step_usage_lanes l where l.tenant = 'rich'$$, pg_temp.april('rich', 'lane_twice'), 'a lane that is there twice');
select pg_temp.sees($$update stepquota.workflow_step_usage_lanes set used_count = 3 where tenant = 'acme'$$, pg_temp.april('acme', 'lane_over_limit'), 'more used than the limit');
select pg_temp.sees_only($$update stepquota.workflow_step_quotas set exhausted_at_count = 2 where tenant = 'rich'$$, pg_temp.april('rich', 'exhausted_with_units_left'), 'a mark that refuses what is free');
-- Grants
select pg_temp.sees_only($$update stepquota.workflow_step_grants set units = 4 where tenant = 'rich'$$, pg_temp.april('rich', 'grants_off_limit'), 'a grant that is not in the limit');
select pg_temp.sees($$update stepquota.workflow_step_usage_periods set spent_grant_units = 1 where tenant = 'rich'$$, pg_temp.april('rich', 'grants_charged_too_little'), 'a charge without a grant');
select pg_temp.sees($$update stepquota.workflow_step_grants set period_start = '2026-03-01Z' where tenant = 'rich'$$, 'grant_left_open rich %', 'a grant whose period is over');
-- Periods
select pg_temp.sees_only($$update stepquota.workflow_step_usage_periods set period_end = '2026-05-02Z' where tenant = 'rich'$$, pg_temp.april('rich', 'period_off_quota'), 'a period with another end');
select pg_temp.sees_only($$update stepquota.workflow_step_usage_periods set effective_limit = 9 where tenant = 'rich'$$, pg_temp.april('rich', 'period_off_quota'), 'or another limit');
select pg_temp.sees($$delete from stepquota.workflow_step_usage_periods where tenant = 'rich'$$, pg_temp.april('rich', 'period_off_quota'), 'or none');
select pg_temp.sees_only($$update stepquota.workflow_step_usage_periods set imported_count = -1 where tenant = 'rich'$$, pg_temp.april('rich', 'period_counts_nonsense'), 'a summary below 0');
select pg_temp.sees_only($$insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, used_count, unledgered_count) values ('rich', '2026-02-01Z', 0, 1, 1, 1)$$, 'usage_without_period rich ' || '2026-02-01Z'::timestamptz, 'usage of no period');
-- The ledger
select pg_temp.sees_only($$delete from stepquota.workflow_run_steps where tenant = 'rich' and run_id = 'user'$$, pg_temp.april('rich', 'counter_off_ledger'), 'a ledger row that is gone');
select pg_temp.sees_only($$update stepquota.workflow_run_steps set ledger_month = '2026-12-01' where tenant = 'rich' and run_id = 'r'$$, 'step_off_run rich r', 'a step in another month');
select pg_temp.sees($$delete from stepquota.workflow_runs where tenant = 'rich' and run_id = 'r'$$, 'step_off_run rich r', 'a step of no run');
select pg_temp.sees($$update stepquota.workflow_runs set ledger_month = '2031-01-01' where tenant = 'rich' and run_id = 'r'$$, 'run_without_ledger rich r', 'a run whose steps have no table');
select pg_temp.sees_only($$update stepquota.workflow_step_batches set granted_count = 4$$, pg_temp.april('batches', 'batch_not_counted'), 'a batch that is not counted');
-- Runs and waits
select pg_temp.sees_only($$update stepquota.workflow_run_waits set status = 'CANCELED', resolved_at = now() where tenant = 'acme'$$, 'waiting_for_nothing acme r', 'a run that waits for nothing');
select pg_temp.sees_only($$update stepquota.workflow_runs set status = 'FAILED', ended_at = now() where tenant = 'acme' and run_id = 'r'$$, 'wait_of_no_open_run acme r', 'a wait of a run that has ended');
select pg_temp.sees_only($$drop index stepquota.workflow_run_waits_one_open_quota_wait_a_run; insert into stepquota.workflow_run_waits (tenant, wait_id, run_id, node_path, node_paths, wait_type, reason, queued_at, created_at) select w.tenant, gen_random_uuid(), w.run_id, w.node_path, w.node_paths, w.wait_type, w.reason, w.queued_at, w.created_at from stepquota.workflow_run_waits w where w.tenant = 'acme'$$, 'two_quota_waits acme r', 'two open quota waits');
select pg_temp.sees_only($$delete from stepquota.paused_tenants$$, 'tenant_not_paused acme r', 'a tenant that nobody will look at');
select pg_temp.sees($$update stepquota.paused_tenants set due_at = '2026-06-01Z' where tenant = 'acme'$$, 'looked_at_too_late acme %', 'or too late');
select pg_temp.sees_only($$update stepquota.workflow_runs set held_at = now() where tenant = 'acme' and run_id = 'r'$$, 'queue_off_hold acme r', 'a held run in the queue');
select pg_temp.sees_only($$update stepquota.workflow_run_waits set is_held = true where tenant = 'acme'$$, 'queue_off_hold acme r', 'one outside the queue that is not held');
select pg_temp.sees_only($$update stepquota.workflow_run_waits set node_paths = node_paths || node_paths where tenant = 'acme'$$, 'path_waits_twice acme r', 'a path that waits twice');
select pg_temp.sees($$update stepquota.workflow_runs set status = 'WAITING' where tenant = 'rich' and run_id = 'r'$$, 'waiting_and_working rich r', 'a run that waits and works');
select pg_temp.sees($$update stepquota.workflow_runs set status = 'WAITING' where tenant = 'back' and run_id = 'r'$$, 'waiting_and_resumed back r', 'a run that waits and is on its way');
select pg_temp.sees_only($$update stepquota.workflow_runs set node_path = 'elsewhere' where tenant = 'acme' and run_id = 'r'$$, 'waiting_elsewhere acme r', 'a run that nobody could resume by hand');
-- Resumptions
select pg_temp.sees_only($$update stepquota.workflow_runs set status = 'FAILED', ended_at = now() where tenant = 'back' and run_id = 'r'$$, 'resumption_of_no_open_run back ' || resumption_id, 'a resumption of a run that has ended') from stepquota.workflow_run_resumptions;
select pg_temp.sees_only($$delete from stepquota.workflow_run_waits where tenant = 'back'$$, 'resumption_of_no_wait back ' || resumption_id, 'a resumption of no wait') from stepquota.workflow_run_resumptions;
select pg_temp.sees_only($$delete from stepquota.workflow_run_resumptions$$, 'resolved_for_nothing back r', 'a resolved wait that nothing came of');
select pg_temp.sees_only($$update stepquota.workflow_run_resumptions set delivery = deliveries[1]$$, 'deliveries_out_of_order back ' || resumption_id, 'an older delivery that counts') from stepquota.workflow_run_resumptions;
select pg_temp.sees_only($$update stepquota.workflow_run_resumptions set deliveries = array[deliveries[2], deliveries[1]], delivery = deliveries[1]$$, 'deliveries_out_of_order back ' || resumption_id, 'deliveries that are not in order') from stepquota.workflow_run_resumptions;
select pg_temp.sees_only($$select setval('stepquota.workflow_run_deliveries', 1)$$, 'delivery_given_twice workflow_run_deliveries', 'a sequence that goes back');
select setval('stepquota.workflow_run_deliveries', 1000000000);
-- Events
select pg_temp.sees_only($$update stepquota.quota_event_consumers set position = 1000000$$, 'consumer_ahead billing', 'a consumer that would miss events');
select pg_temp.sees_only($$delete from stepquota.quota_event_consumers$$, 'claim_off_consumer billing', 'events claimed by nobody');
select pg_temp.sees($$update stepquota.quota_events set position = 2 where position = 1$$, 'position_not_given_once % 2', 'a position that was given twice');
select pg_temp.sees($$update stepquota.quota_events set position = 1000000 where position = 1$$, 'position_not_given_once % 1000000', 'or never');
-- The Stripe mirror
select pg_temp.sees($$delete from stepquota.stripe_subscriptions$$, 'item_off_subscription %', 'an item of no subscription');
select * from finish();
rollback;
