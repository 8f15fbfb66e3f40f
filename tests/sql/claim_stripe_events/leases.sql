-- Events are claimed by object for the time of a lease, put off longer after each failure, dead after policy's attempts.
begin;
select plan(21);
select outcome from stepquota.record_stripe_events(jsonb_build_array(
  '{"id": "e1", "type": "price.updated", "object_id": "p1", "created": 1775000000}'::jsonb, '{"id": "e2", "type": "price.updated", "object_id": "p1", "created": 1775000000}'::jsonb,
  '{"id": "e3", "type": "customer.updated", "object_id": "c1", "created": 1775000001}'::jsonb), 'catch_up');
select results_eq('select * from stepquota.claim_stripe_events()', $$values ('price'::text, 'p1'::text, array['e1', 'e2']), ('customer', 'c1', array['e3'])$$, 'a row an object');
select is_empty('select * from stepquota.claim_stripe_events()', 'nobody else gets them');
update stepquota.stripe_events set next_attempt_at = clock_timestamp() where id = 'e3';
select results_eq('select object_id from stepquota.claim_stripe_events()', array['c1'], 'until the lease has ended');
select is(stepquota.finish_stripe_events(array['e1', 'e2', 'unknown']), 2, 'two are done');
select is(stepquota.finish_stripe_events(array['e1']), 0, 'once');
select ok((select processed_at is not null from stepquota.stripe_events where id = 'e1'), 'and it is known when');
select results_eq($$select * from stepquota.fail_stripe_events(array['e3'], 'server busy', false)$$, $$values ('e3'::text, 'pending'::text)$$, 'what is not its fault');
select is((select attempts from stepquota.stripe_events where id = 'e3'), 0, 'counts as no attempt');
select ok((select next_attempt_at <= clock_timestamp() + interval '30 seconds' from stepquota.stripe_events where id = 'e3'), 'and is due soon');
select is((select status from stepquota.fail_stripe_events(array['e3'], 'bad shape')), 'pending', 'a failure');
select ok((select next_attempt_at - clock_timestamp() between interval '0' and interval '2 seconds' from stepquota.stripe_events where id = 'e3'), 'waits for two seconds at most');
select (stepquota.fail_stripe_events(array['e3'], 'bad shape')).status from generate_series(1, 6);
select ok((select next_attempt_at - clock_timestamp() between interval '63 seconds' and interval '128 seconds' from stepquota.stripe_events where id = 'e3'), 'the seventh for up to two minutes');
select is((select status from stepquota.fail_stripe_events(array['e3'], 'bad shape')), 'dead', 'the eighth is the last');
select is((select details ->> 'error' from stepquota.quota_events where event_type = 'stripe_event_dead'), 'bad shape', 'and is recorded as an error');
select is_empty($$select * from stepquota.fail_stripe_events(array['e3'], 'x')$$, 'a dead one does not fail again');
select is((select stepquota.requeue_stripe_events()), 1, 'requeued');
select is((select array[status, attempts::text] from stepquota.stripe_events where id = 'e3'), array['pending', '0'], 'it begins anew');
select is(stepquota.requeue_stripe_events(array['e1']), 0, 'what is done is not requeued');
select is(stepquota.tend_stripe_events(10), 0, 'young events are kept');
update stepquota.stripe_events set processed_at = clock_timestamp() - interval '36 days' where id = 'e1';
select is(stepquota.tend_stripe_events(10), 1, 'old ones are deleted');
select is((select pending_events from stepquota.stripe_sync_health()), 1::bigint, 'health counts');
select * from finish();
rollback;
