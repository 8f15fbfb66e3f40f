-- One round over all tenants a minute at most, in bounded steps; what has changed is stored, and what it adds up to.
begin;
select plan(17);
create function pg_temp.summary(p_tenant text) returns text language sql as $$
  select (s.fill, s.used_count, s.paused_runs, s.resets_at)::text from stepquota.tenant_summaries s where s.tenant = p_tenant;
$$;
select set_clock('2026-04-15T12:00:00Z');
select is((select (t.as_of, t.tenants)::text from stepquota.tenant_totals t), '(,0)', 'nothing is known before the first round');
select give_limit('a', 4), use_units('a', 3), give_limit('b', 1), use_units('b', 1), give_limit('c', null), use_units('c', 2);
select count(pause_run('b', 'r' || n)) from generate_series(1, 3) n;
select stepquota.set_tenant_plan('nobody', 'solo');
select is(stepquota.summarize_tenants(3), 3, 'three in one step');
select is((select t.as_of from stepquota.tenant_totals t), null, 'the round is not through');
select is(stepquota.summarize_tenants(3), 1, 'then the rest');
select is((select t::text from stepquota.tenant_totals t), '("2026-04-15 12:00:00+00",4,1,0,1,1,3)', 'of when it began, and what it adds up to');
select is(pg_temp.summary('a'), '(75,3,0,"2026-05-01 00:00:00+00")', 'one with something left');
select is(pg_temp.summary('b'), '(100,1,3,"2026-05-01 00:00:00+00")', 'one that has used it up');
select is(pg_temp.summary('c'), '(-1,2,0,"2026-05-01 00:00:00+00")', 'an unlimited one');
select set_clock('2026-04-15T12:00:49Z');
select use_units('c', 1, 'more'), give_limit('b', 5);
select is(stepquota.summarize_tenants(), 0, 'not again in the same minute');
select set_clock('2026-04-15T12:00:51Z');
create temp table before as select s.tenant, s.xmin::text as written from stepquota.tenant_summaries s;
select is(stepquota.summarize_tenants(), 4, 'a minute later');
-- In one transaction xmin stays; the place of the row does not.
select is(pg_temp.summary('b') || pg_temp.summary('c'), '(20,1,0,"2026-05-01 00:00:00+00")(-1,3,0,"2026-05-01 00:00:00+00")', 'what has changed');
select is((select (t.as_of, t.paused_tenants, t.paused_runs)::text from stepquota.tenant_totals t), '("2026-04-15 12:00:51+00",0,0)', 'and what it adds up to now');
-- The next period: the stored quota is over.
select set_clock('2026-05-02Z');
select is(stepquota.summarize_tenants(), 4, 'in the next period');
select is(pg_temp.summary('a'), '(0,0,0,"2026-06-01 00:00:00+00")', 'usage begins anew');
-- A clock that was set back.
select set_clock('2026-04-20Z');
select is(stepquota.summarize_tenants(), 4, 'at once when the clock was set back');
select set_clock('2026-04-21Z');
select count(*) from stepquota.forget_tenant('c');
select is(stepquota.summarize_tenants() || coalesce(pg_temp.summary('c'), ' none'), '3 none', 'a tenant that was forgotten is gone');
-- Its row was made again by a round that had begun before.
insert into stepquota.tenant_summaries (tenant, fill, used_count, paused_runs, resets_at) select x, 0, 0, 0, '2026-05-01Z' from unnest(array['a0', 'c', 'zz']) x;
select set_clock('2026-04-22Z');
select count(stepquota.summarize_tenants(1)) from generate_series(1, 4);
select is((select array_agg(s.tenant order by s.tenant) from stepquota.tenant_summaries s), array['a', 'b', 'nobody'], 'and goes with the next');
select * from finish();
rollback;
