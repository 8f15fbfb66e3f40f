-- A full listing: resumed, one at a time; unchanged objects are not written; what it misses is named, up to a bound.
begin;
select plan(33);
create function pg_temp.page(p_type text, p_objects jsonb, p_is_last boolean default true, p_holder text default 'me') returns text language sql as $$
  select coalesce(string_agg(s.objects || ' ' || s.action, ', '), 'nothing') from stepquota.store_stripe_page(p_holder, p_type, p_objects, clock_timestamp(), p_is_last) s;
$$;
select apply(product('old')), apply(product('gone'));
select is((select array_agg(object_type || ' ' || listed || ' ' || known) from stepquota.begin_stripe_sync('me')), array['product 0 2', 'price 0 0', 'customer 0 0', 'subscription 0 0'], 'all types in order, with what is known');
select refuses($$select * from stepquota.begin_stripe_sync('you')$$, 'WQ032', 'one at a time');
select refuses($$select * from stepquota.store_stripe_page('you', 'product', '[]', '2026-04-01Z', true)$$, 'WQ032', 'nobody else stores pages');
create temp table versions as select id, xmin::text as made, ctid::text as place from stepquota.stripe_products;
select is(pg_temp.page('product', jsonb_build_array(product('new'), product('old')), false), '1 inserted, 1 unchanged', 'a page');
select is((select array[v.place, v.made] from versions v where id = 'old'), (select array[p.ctid::text, p.xmin::text] from stepquota.stripe_products p where id = 'old'), 'what is unchanged is not written');
select results_eq($$select listed, last_id, is_complete from stepquota.begin_stripe_sync('me') where object_type = 'product'$$, $$values (2::bigint, 'old'::text, false)$$, 'it goes on where it was');
select refuses($$select * from stepquota.list_unseen_stripe_objects('me')$$, 'WQ033', 'no look at what is missing before all is listed');
select is(pg_temp.page('product', '[]'), 'nothing', 'an empty last page');
select is(pg_temp.page('price', jsonb_build_array(price('good', '"new"', '"5"'), price('bad', '"new"') || '{"recurring": {"interval": 7}}')), '1 inserted, 1 refused', 'one that cannot be read takes nothing of the others with it');
select is((select details ->> 'object_id' from stepquota.quota_events where event_type = 'stripe_object_refused'), 'bad', 'and is recorded');
select is(pg_temp.page('customer', '[]'), 'nothing', 'no customers');
select is(pg_temp.page('subscription', '[]'), 'nothing', 'no subscriptions');
select results_eq($$select * from stepquota.list_unseen_stripe_objects('me')$$, $$values ('product'::text, 'gone'::text)$$, 'what was not listed');
select lives_ok($$select stepquota.finish_stripe_sync('me', '{"product": {"inserted": 1}}')$$, 'done');
select ok((select last_full_sync_at is not null and not needs_full_sync from stepquota.stripe_sync_health()), 'which is known');
select refuses($$select * from stepquota.finish_stripe_sync('me', '{}')$$, 'WQ032', 'once');

-- The page is a proof against an answer that was asked for earlier and comes later.
create temp table asked as select clock_timestamp() as at;
select is((select count(*) from stepquota.begin_stripe_sync('you', true)), 4::bigint, 'another begins');
select is(pg_temp.page('product', jsonb_build_array(product('new')), true, 'you'), '1 unchanged', 'it finds it as it was');
select is((select action from stepquota.apply_stripe_object(product('new', '"7"'), (select at from asked))), 'stale', 'an answer of before it is stale');
select is((select action from stepquota.apply_stripe_object(product('new', '"7"'), clock_timestamp())), 'updated', 'one of after it is not');
select is(pg_temp.page('price', '[]', true, 'you') || pg_temp.page('customer', '[]', true, 'you') || pg_temp.page('subscription', '[]', true, 'you'), 'nothingnothingnothing', 'the rest');
select set_eq($$select object_id from stepquota.list_unseen_stripe_objects('you')$$, array['old', 'gone', 'good'], 'the others are unseen');
select lives_ok($$select stepquota.release_stripe_sync('you')$$, 'it stops');
select is((select bool_and(is_complete) from stepquota.begin_stripe_sync('third')), true, 'and a third goes on at once');
select lives_ok($$select stepquota.finish_stripe_sync('third', '{}')$$, 'to the end');

-- Too many: 21 of 21, though a key of the right account never sees so few.
select apply(variadic array(select customer from generate_series(1, 21) n, jsonb_build_object('id', 'c' || n, 'object', 'customer', 'metadata', '{}'::jsonb) customer));
select is((select count(*) from stepquota.begin_stripe_sync('me', true)), 4::bigint, 'begins');
select is(pg_temp.page('product', '[]') || pg_temp.page('price', '[]') || pg_temp.page('customer', '[]') || pg_temp.page('subscription', '[]'), 'nothingnothingnothingnothing', 'Stripe lists nothing');
select refuses($$select * from stepquota.list_unseen_stripe_objects('me')$$, 'WQ031', 'it stops and says so');
select is((select count(*) from stepquota.list_unseen_stripe_objects('me', true) where object_type = 'customer'), 21::bigint, 'unless forced');
update stepquota.stripe_customers set is_on_test_clock = true where id = 'c1';
select is((select count(*) from stepquota.list_unseen_stripe_objects('me') where object_type = 'customer'), 21::bigint, 'those on test clocks are never listed and do not count');
-- The mark of the events.
update stepquota.stripe_sync_state set value = jsonb_build_object('created', '2026-04-01T00:00:00Z') where name = 'events_cursor';
select lives_ok($$select stepquota.finish_stripe_catch_up('2026-03-01Z'), stepquota.finish_stripe_catch_up(null)$$, 'the mark');
select is((select (value ->> 'created')::timestamptz from stepquota.stripe_sync_state where name = 'events_cursor'), '2026-04-01Z'::timestamptz, 'never goes back');
select ok((select s.needs_full_sync and s.since < clock_timestamp() - interval '28 days' from stepquota.begin_stripe_catch_up() s), 'with an old mark only a full sync brings everything');
select * from finish();
rollback;
