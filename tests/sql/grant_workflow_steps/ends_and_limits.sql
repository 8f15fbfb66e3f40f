-- Several grants with different ends, a plan that changes, unlimited tenants, periods that move.
begin;
select plan(20);
select set_clock('2026-04-01T12:00:00Z');
select give_limit('acme', 100);
select (stepquota.grant_workflow_steps('acme', 50, 'first', '2026-04-15Z')).units, (stepquota.grant_workflow_steps('acme', 30, 'second', '2026-04-20Z')).units;
select is((select granted from stepquota.reserve_workflow_steps('acme', 140)), 140::bigint, 'forty past the limit of a hundred');
select set_clock('2026-04-15T00:00:00Z');
select is((select array[used_count, effective_limit, remaining, granted_units] from stepquota.resolve_workflow_step_quota('acme')), array[140, 170, 30, 70]::bigint[], 'the one that ended bore them, the other is whole');
select is((select array_agg(spent_units order by reason) from stepquota.workflow_step_grants), array[40, 0]::bigint[], 'as it is charged');
select is((select granted from stepquota.reserve_workflow_steps('acme', 99, true)), 30::bigint, 'all of it can be used');
select is(give_limit('acme', 200), 270::bigint, 'a higher limit comes on top of what was charged');
select is(give_limit('acme', null), null, 'an unlimited tenant');
select is((select array[granted_units, used_count] from stepquota.resolve_workflow_step_quota('acme')), array[70, 170]::bigint[], 'uses nothing of its grants');
select set_clock('2026-04-20T00:00:00Z');
select is((select granted_units from stepquota.resolve_workflow_step_quota('acme')), 40::bigint, 'the second has ended');
select is((select array_agg(spent_units order by reason) from stepquota.workflow_step_grants), array[40, 0]::bigint[], 'without a unit charged, since there was no limit');
select is(give_limit('acme', 100), 140::bigint, 'with a limit again, below what is used');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');

-- A period that is replaced while it runs takes usage, charges and grants along.
select subscribe('moving', '"10"', p_start => '2026-04-01Z', p_end => '2026-05-01Z');
select (stepquota.grant_workflow_steps('moving', 5, 'with its period')).units, (stepquota.grant_workflow_steps('moving', 4, 'short', '2026-04-21Z')).units;
select is((select granted from stepquota.reserve_workflow_steps('moving', 12)), 12::bigint, 'two past the limit');
select set_clock('2026-04-22T00:00:00Z');
select is((select array[effective_limit, granted_units] from stepquota.resolve_workflow_step_quota('moving')), array[17, 7]::bigint[], 'two are charged to the short one');
select subscribe('moving', '"10"', p_start => '2026-04-10Z', p_end => '2026-05-10Z');
select is((select array[used_count, effective_limit, granted_units, remaining] from stepquota.resolve_workflow_step_quota('moving')), array[12, 17, 7, 5]::bigint[], 'all of it goes along with the usage');
select is((select granted from stepquota.reserve_workflow_steps('moving', 99, true)), 5::bigint, 'five are left');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select set_clock('2026-05-10T00:00:00Z');
select is((select array[used_count, effective_limit] from stepquota.resolve_workflow_step_quota('moving')), array[0, 10]::bigint[], 'after its end nothing of them is left');
select is((select array_agg(spent_units order by reason) from stepquota.workflow_step_grants where tenant = 'moving'), array[2, 5]::bigint[], 'each unit was charged once');

-- Shadow mode.
select give_limit('shady', 1), (stepquota.set_tenant_enforcement('shady', 'shadow')).allowed, (stepquota.grant_workflow_steps('shady', 2, 'x', '2026-09-01Z')).units;
select (stepquota.reserve_workflow_steps('shady', 9)).granted;
select set_clock('2026-06-10T00:00:00Z');
select is((select array[effective_limit, granted_units] from stepquota.resolve_workflow_step_quota('shady')), array[1, 0]::bigint[], 'in shadow mode a grant is used up as if it were enforced');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
