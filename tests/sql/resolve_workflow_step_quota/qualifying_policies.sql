-- past_due and pause_collection are policy.
begin;
select plan(8);
select set_clock('2026-04-15Z');
select subscribe('late', '"5"', p_status => 'past_due'), subscribe('paused', '"5"', p_changes => '{"pause_collection": {"behavior": "void", "resumes_at": null}}'),
       subscribe('soon', '"5"', p_changes => jsonb_build_object('pause_collection', jsonb_build_object('behavior', 'void', 'resumes_at', tap.seconds('2026-04-14Z'))));
select matches(quota_of(t), '5 stripe_price_metadata', t || ' qualifies') from unnest(array['late', 'paused']) t;
select value from stepquota.set_policy('past_due_qualifies', 'false');
select value from stepquota.set_policy('pause_collection_qualifies', 'false');
select matches(quota_of(t), 'fallback_calendar', t || ' does not, where policy says so') from unnest(array['late', 'paused']) t;
select matches(quota_of('soon'), '5 stripe_price_metadata', 'collection that has been resumed is not paused');
select matches((select reason from stepquota.explain_workflow_step_quota('late') where object_type = 'subscription_item'), 'policy past_due_qualifies is off', 'the explanation names the policy');
select matches((select reason from stepquota.explain_workflow_step_quota('paused') where object_type = 'subscription_item'), 'policy pause_collection_qualifies is off', 'both');
select refuses($$select stepquota.apply_stripe_object(subscription('s', 'x', '[]', p_changes => '{"pause_collection": {"resumes_at": "soon"}}'), '2026-04-15Z')$$, 'WQ016', 'a moment that is none is refused before it is stored');
select * from finish();
rollback;
