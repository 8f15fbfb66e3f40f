-- Pages of the list in each order, forwards and backwards, found by name and by state; of any age, with figures of now.
begin;
select plan(27);
select set_clock('2026-04-15T12:00:00Z');
-- t00 to t19: limit 10, n % 11 used; three unlimited ones.
select stepquota.set_tier_limit('ten', 10), stepquota.set_tier_limit('free', null);
select stepquota.set_tenant_plan(format('t%s', to_char(n, 'FM00')), 'ten'), (stepquota.reserve_workflow_steps(format('t%s', to_char(n, 'FM00')), greatest(n % 11, 1))).granted from generate_series(0, 19) n;
select stepquota.set_tenant_plan('U ' || n, 'free'), (stepquota.reserve_workflow_steps('U ' || n, 100 * n)).granted from generate_series(1, 3) n;
select count(pause_run('t10', 'r' || n)) from generate_series(1, 2) n;

-- All pages of a list, one after the other, by its own cursors.
create function pg_temp.walk(p_sort text, p_descending boolean, p_max integer, p_search text default null, p_only text default null)
returns text[] language plpgsql as $$
declare
  v_all text[] := '{}';
  v_page record;
begin
  select null::text[] as tenants, null::text as last_value, null::text as last_tenant into v_page;
  loop
    select array_agg(l.tenant order by l.place) as tenants, (array_agg(l.sort_value order by l.place desc))[1] as last_value, (array_agg(l.tenant order by l.place desc))[1] as last_tenant
      into v_page
      from stepquota.list_tenants(p_search, p_only, p_sort, p_descending, v_page.last_value, v_page.last_tenant, false, p_max)
        with ordinality as l (tenant, u, e, r, p, x, w, n, t, f, s, h, sort_value, a, place);
    exit when v_page.tenants is null;
    v_all := v_all || v_page.tenants;
  end loop;
  return v_all;
end $$;
create function pg_temp.names(p_rows text) returns text language plpgsql as $$
declare v text; begin execute format('select string_agg(l.tenant, '','') from (%s) l', p_rows) into v; return v; end $$;

-- Where no round was yet, all orders are computed.
select is((select count(*) from stepquota.tenant_summaries), 0::bigint, 'no round yet');
select is(pg_temp.names($$select * from stepquota.list_tenants(p_sort => 'used', p_descending => true, p_max_tenants => 4)$$), 'U 3,U 2,U 1,t10', 'yet the list is there');
select is((select max(l.sorted_as_of) from stepquota.list_tenants(p_sort => 'used') l), '2026-04-15T12:00:00Z'::timestamptz, 'of now');
create temp table computed as select s.sort, d.descending, pg_temp.walk(s.sort, d.descending, 100) as tenants from unnest(array['tenant', 'percent', 'used', 'paused', 'resets']) s (sort), unnest(array[true, false]) d (descending);
select stepquota.summarize_tenants();
select is_empty($$select c.sort, c.descending, pg_temp.walk(c.sort, c.descending, 7) from computed c where c.tenants <> pg_temp.walk(c.sort, c.descending, 7) or cardinality(c.tenants) <> 23$$,
  'in every order the pages have every tenant once, as the computed list');
select is((select tenants from computed where sort = 'tenant' and not descending), (select array_agg(q.tenant order by q.tenant) from stepquota.workflow_step_quotas q), 'by name');
select is((select tenants from computed where sort = 'percent' and descending), (select array_agg(q.tenant order by coalesce(u.percent, -1) desc, q.tenant desc) from stepquota.workflow_step_quotas q join stepquota.tenant_usage u on u.tenant = q.tenant), 'by percent, unlimited last');
select is((select tenants from computed where sort = 'paused' and descending), (select array_agg(u.tenant order by u.paused_runs desc, u.tenant desc) from stepquota.tenant_usage u), 'by paused runs');

-- Backwards: the page before the row.
select is(pg_temp.names($$select * from stepquota.list_tenants(p_max_tenants => 3, p_after_value => 't05', p_after_tenant => 't05', p_backwards => true)$$), 't02,t03,t04', 'the page before');
select is(pg_temp.names($$select * from stepquota.list_tenants(p_sort => 'used', p_descending => true, p_max_tenants => 2, p_after_value => '100', p_after_tenant => 'U 1', p_backwards => true)$$), 'U 3,U 2', 'also where the greatest is first');
select is_empty($$select 1 from stepquota.list_tenants(p_sort => 'used', p_descending => true, p_after_value => '300', p_after_tenant => 'U 3', p_backwards => true)$$, 'before the first there is none');

-- Search and choice.
select is(pg_temp.names($$select * from stepquota.list_tenants(p_search => 'T1', p_max_tenants => 2)$$), 't10,t11', 'upper and lower case alike');
select is(pg_temp.walk('used', true, 2, 'u '), array['U 3', 'U 2', 'U 1'], 'a part of the name in another order');
select is_empty($$select 1 from stepquota.list_tenants(p_search => '%')$$, 'a percent sign is itself');
select is_empty($$select 1 from stepquota.list_tenants(p_search => '_')$$, 'and so is an underscore');
select is(pg_temp.walk('tenant', false, 5, null, 'paused'), array['t10'], 'with paused runs');
select is(pg_temp.walk('tenant', false, 1, null, 'exhausted'), array['t10'], 'used up');
select is(pg_temp.walk('tenant', false, 1, null, 'nearly'), array['t08', 't09', 't19'], '80 percent or more, not all');
select is(pg_temp.walk('tenant', false, 2, null, 'unlimited'), array['U 1', 'U 2', 'U 3'], 'without limit');
select is((select count(*) from stepquota.list_tenants(p_search => '')), 23::bigint, 'nothing to search is no search');

-- Figures of now, in the order of the round.
select set_clock('2026-04-15T12:10:00Z');
select give_limit('t00', 4), use_units('t00', 3), stepquota.hold_tenant('t00', 'a ticket'), stepquota.suspend_tenant('t01', 'unpaid');
select is((select (l.used_count, l.effective_limit, l.remaining, l.percent, l.resets_at, l.paused_runs, l.plan, l.tier, l.enforcement, l.suspended_at, l.held_at, l.sort_value, l.sorted_as_of)::text
  from stepquota.list_tenants('t00', null, 'percent') l),
  '(4,4,0,100,"2026-05-01 00:00:00+00",0,"tier of t00","tier of t00",enforce,,"2026-04-15 12:10:00+00",10,"2026-04-15 12:00:00+00")', 'what it shows is of now, its place of the round');
select is((select l.suspended_at from stepquota.list_tenants('t01') l), '2026-04-15T12:10:00Z'::timestamptz, 'a suspension');
select is((select array_agg((l.used_count, l.effective_limit, l.remaining, l.percent::numeric, l.resets_at, l.paused_runs)::text order by l.tenant) from stepquota.list_tenants(p_max_tenants => 1000) l),
  (select array_agg((u.used_count, u.effective_limit, u.remaining, (u.percent::double precision)::numeric, u.resets_at, u.paused_runs)::text order by u.tenant) from stepquota.tenant_usage u), 'as the view says');
-- A tenant that came since is there by name at once, else with the next round.
select (stepquota.reserve_workflow_step('t77')).allowed;
select is((select count(*) from stepquota.list_tenants('t77')) || ' ' || (select count(*) from stepquota.list_tenants('t77', null, 'used')), '1 0', 'one that came since');
select set_clock('2026-04-15T12:11:00Z');
select stepquota.summarize_tenants();
select is((select count(*) from stepquota.list_tenants('t77', null, 'used')), 1::bigint, 'and after the next round');
-- Who may.
set local role stepquota_observer;
select is((select count(*) from stepquota.list_tenants()), 24::bigint, 'an observer may');
select is((select t.tenants from stepquota.tenant_totals t), 24::bigint, 'and sees the totals');
reset role;
set local role stepquota_runtime;
select throws_ok('select 1 from stepquota.list_tenants()', '42501', null, 'a runtime may not');
reset role;
select * from finish();
rollback;
