-- Several consumers, each with its own place, types and leases.
begin;
select plan(26);
select set_clock('2026-04-15T12:00:00Z');
update stepquota.policy set alert_percents = '{}';
create function pg_temp.claimed(p_consumer text, p_max integer default 100, p_types text[] default null, p_start_at timestamptz default null) returns text language sql as $$
  select string_agg(c.event_type || case when c.delivery > 1 then ' ' || c.delivery else '' end, ', ' order by c.event_id)
    from stepquota.claim_quota_events(p_consumer, p_max, '1 minute', p_types, p_start_at) c;
$$;
select give_limit('acme', 1), use_units('acme', 1);
select pause_run('acme', 'r');
select is((select string_agg(e.event_type, ', ' order by e.event_id) from stepquota.quota_events e),
  'tier_limit_changed, plan_changed, fallback_period, quota_exhausted, run_paused', 'what has happened so far');
select is(pg_temp.claimed('new'), null, 'a new consumer starts now');
select is(pg_temp.claimed('all', 3, null, '-infinity'), 'tier_limit_changed, plan_changed, fallback_period', 'or at the first event; at most so many');
select is(pg_temp.claimed('all'), 'quota_exhausted, run_paused', 'then the next ones');
select is(pg_temp.claimed('all'), null, 'each once within its lease');
select is(pg_temp.claimed('some', 100, '{run_paused,plan_changed}', '-infinity'), 'plan_changed, run_paused', 'or only some types');

select set_clock('2026-04-15T12:00:30Z');
select is(stepquota.acknowledge_quota_events('all', array(select event_id from stepquota.quota_events where event_type in ('plan_changed', 'quota_exhausted', 'run_paused'))), 3::bigint, 'done with three');
select is(stepquota.acknowledge_quota_events('all', array(select event_id from stepquota.quota_events where event_type in ('plan_changed', 'run_paused'))), 0::bigint, 'which is said once');
select is(stepquota.acknowledge_quota_events('some', array(select event_id from stepquota.quota_events where event_type = 'run_paused')), 1::bigint, 'what others do with theirs is no matter');
select is(stepquota.acknowledge_quota_events('nobody', '{1,2,3}'), 0::bigint, 'a consumer that is none has none');
select set_clock('2026-04-15T12:00:59.999Z');
select is(pg_temp.claimed('all'), null, 'the lease goes on');
select set_clock('2026-04-15T12:01:00Z');
select is(pg_temp.claimed('all', 1), 'tier_limit_changed 2', 'when it ends, what is not acknowledged comes again');
select is(pg_temp.claimed('all'), 'fallback_period 2', 'each of them');
select is(pg_temp.claimed('some'), 'plan_changed 2', 'to each who has not acknowledged it');
select is(pg_temp.claimed('new'), null, 'and to nobody else');

select (stepquota.set_tenant_plan('acme', 'pro')).effective_limit;
select is(pg_temp.claimed('all'), 'plan_changed, limit_changed, run_resumed', 'new events');
select is(pg_temp.claimed('some'), 'plan_changed', 'its types are kept');
select is(pg_temp.claimed('some', 100, '{limit_changed}'), null, 'others are for what comes from now on');
select is(pg_temp.claimed('new', 2), 'plan_changed, limit_changed', 'the one that started later has them too');
select is((select array[c.tenant, c.level, c.run_id, c.details ->> 'by', c.created_at::text, c.delivery::text, c.leased_until::text] from stepquota.claim_quota_events('new', 1, '2 minutes') c),
  array['acme', 'info', 'r', 'plan', timestamptz '2026-04-15T12:01:00Z'::text, '1', timestamptz '2026-04-15T12:03:00Z'::text], 'an event with all its columns');

-- From a moment on.
select set_clock('2026-04-18Z');
select (stepquota.set_tenant_plan('acme', 'solo')).effective_limit;
select is(pg_temp.claimed('later', 100, null, '2026-04-18Z'), 'plan_changed, limit_changed', 'a new consumer may start at any moment');
select is(pg_temp.claimed('later', 100, null, '-infinity'), null, 'once');
select is(pg_temp.claimed('never', 100, null, 'infinity'), null, 'also at none');

-- Old events may be deleted; so are the claims of them.
delete from stepquota.quota_events;
select set_clock('2026-04-19Z');
select is(pg_temp.claimed('all'), null, 'what is deleted is not handed out');
select is((select count(*) from stepquota.quota_event_claims where consumer = 'all'), 0::bigint, 'nor remembered');
select (stepquota.set_tenant_plan('acme', 'pro')).effective_limit;
select is(pg_temp.claimed('all'), 'plan_changed, limit_changed', 'and it goes on');
select * from finish();
rollback;
