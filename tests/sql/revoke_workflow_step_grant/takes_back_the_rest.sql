-- A revocation takes back what is left; what was used stays used; the same again changes nothing.
begin;
select plan(12);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 2);
create temp table gift as select * from stepquota.grant_workflow_steps('acme', 5, 'by mistake', '2026-08-01Z');
select is((select granted from stepquota.reserve_workflow_steps('acme', 4)), 4::bigint, 'two of it are used');
select is((select array[spent_units::text, closed_because, closed_by, closed_at::text] from stepquota.revoke_workflow_step_grant('acme', (select grant_id from gift), 'wrong tenant')),
  array['2', 'wrong tenant', session_user::text, '2026-04-15 12:00:00+00'], 'it is revoked');
select is((select array[allowed::text, used_count::text, effective_limit::text, granted_units::text] from stepquota.reserve_workflow_step('acme')), array['false', '4', '4', '2'], 'nothing is left of it');
select is((select closed_because from stepquota.revoke_workflow_step_grant('acme', (select grant_id from gift), 'again')), 'wrong tenant', 'revoked again it stays as it is');
select is((select array_agg(event_type order by event_id) from stepquota.quota_events where event_type ~ 'grant'), array['steps_granted', 'grant_revoked'], 'both are recorded, once');
select set_clock('2026-05-01T00:00:00Z');
select is((select effective_limit from stepquota.resolve_workflow_step_quota('acme')), 2::bigint, 'nothing of it goes into the next period');
-- One of two: what was used is borne by the one that ends first.
create temp table two as select reason, grant_id from (select * from stepquota.grant_workflow_steps('acme', 3, 'soon', '2026-05-10Z')) g union all select reason, grant_id from (select * from stepquota.grant_workflow_steps('acme', 3, 'late', '2026-07-01Z')) g;
select is((select granted from stepquota.reserve_workflow_steps('acme', 4)), 4::bigint, 'two past the limit');
select is((select spent_units from stepquota.revoke_workflow_step_grant('acme', (select grant_id from two where reason = 'late'), 'x')), 0::bigint, 'the later one was not touched');
select is((select array[effective_limit, granted_units] from stepquota.resolve_workflow_step_quota('acme')), array[5, 3]::bigint[], 'one is left of the other');
select refuses($$select stepquota.revoke_workflow_step_grant('acme', '00000000-0000-0000-0000-000000000001', 'x')$$, 'WQ040', 'an unknown grant');
select refuses(format($$select stepquota.revoke_workflow_step_grant('other', %L, 'x')$$, (select grant_id from gift)), 'WQ040', 'another tenant''s');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
