-- Resumed, exhausted, no capacity, held: answers. Resuming bypasses nothing and consumes nothing.
begin;
select plan(22);
select set_clock('2026-04-15T12:00:00Z');
create function pg_temp.resume(p_run_id text) returns text language sql as $$
  select r.resumed || ' ' || r.reason from stepquota.resume_workflow_run('acme', p_run_id, 'customer called') r;
$$;
create function pg_temp.set_quietly(p_limit bigint) returns void language sql as $$
  update stepquota.tiers set step_limit = p_limit where tier = 'tier of acme';
$$;
select give_limit('acme', 10);
select use_units('acme', 10);
select isnt(pause_run('acme', r), null, r) from unnest(array['r', 's']) r;
select results_eq($$select (r).* from (select stepquota.resume_workflow_run('acme', 'r', 'please') r) x$$,
  $$values (false, 'quota_exhausted'::text, 10::bigint, 10::bigint, '2026-04-01Z'::timestamptz, '2026-05-01Z'::timestamptz, 'fallback_calendar'::text, 'tier_default'::text, null::uuid)$$,
  'exhausted at 10 of 10');
select is(run_state('acme', 'r'), 'WAITING at root.steps[0]', 'the run waits on');
select is((select array[e.run_id, e.details ->> 'reason', e.details ->> 'operator_reason', e.details ->> 'operator'] from stepquota.quota_events e where event_type = 'resume_refused'),
  array['r', 'quota_exhausted', 'please', session_user::text], 'and the refusal is recorded');

select pg_temp.set_quietly(11);
select is(pg_temp.resume('s'), 'true resumed', 'a free unit, even before the older run');
select is(run_state('acme', 's'), 'RUNNING at root.steps[0]', 'the run goes on where it stood');
select is(used('acme'), 10::bigint, 'resuming consumes nothing');
select is((select array_agg(message || ' ' || (details ->> 'by') || ' ' || (details ->> 'reason')) from stepquota.workflow_run_logs), array['resumed operator customer called'], 'one log row, with the reason');
select is(count_events('acme', 'run_resumed'), 1::bigint, 'and one event');
select is(pg_temp.resume('r'), 'false no_capacity', 'the unit left is promised');
select refuses($$select stepquota.resume_workflow_run('acme', 's', 'again')$$, 'WQ003', 'it is resumed once');
select is((select node_paths from stepquota.claim_workflow_run_resumptions('w')), array['root.steps[0]'], 'its runtime gets it');
select ok((stepquota.reserve_workflow_step('acme')).allowed, 'somebody else takes the unit');
select is((stepquota.start_workflow_step('acme', 's', 'root.steps[0]')).outcome, 'quota_paused', 'no bypass: the step reserves again, and is paused');
select is((select queued_at from stepquota.workflow_run_waits where run_id = 's' and status = 'WAITING'), '2026-04-15T12:00:00Z'::timestamptz, 'in its old place');

select pg_temp.set_quietly(12);
update stepquota.tenants set suspended_at = '2026-04-15Z' where tenant = 'acme';
select is(pg_temp.resume('r'), 'false held', 'a suspended tenant''s');
update stepquota.tenants set suspended_at = null where tenant = 'acme';
select is(pg_temp.resume('r'), 'true resumed', 'and after it');
-- A promise is forgotten after policy.resumption_counts_for.
select is(pg_temp.resume('s'), 'false no_capacity', 'the promise counts');
select set_clock('2026-04-15T12:05:01Z');
select is(pg_temp.resume('s'), 'true resumed', 'for five minutes');
select is((select count(*) from stepquota.paused_tenants), 0::bigint, 'nobody is left in the queue');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
