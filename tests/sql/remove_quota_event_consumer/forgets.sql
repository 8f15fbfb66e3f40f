-- A consumer that is removed is forgotten, with what it had claimed.
begin;
select plan(6);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1);
select is((select count(*) from stepquota.claim_quota_events('mailer', p_start_at => '-infinity')), 3::bigint, 'it has claimed');
select is((select count(*) from stepquota.claim_quota_events('other', p_start_at => '-infinity')), 3::bigint, 'so has another');
select is(stepquota.remove_quota_event_consumer('mailer'), true, 'it is removed');
select is(stepquota.remove_quota_event_consumer('mailer'), false, 'once');
select results_eq('select consumer, count(*) from stepquota.quota_event_claims group by 1', $$values ('other', 3::bigint)$$, 'nothing of it is left');
select is((select count(*) from stepquota.claim_quota_events('mailer')), 0::bigint, 'if it claims again it is new');
select * from finish();
rollback;
