-- Malformed and unsupported objects: WQ016 and WQ017, with DETAIL and HINT, and nothing written.
begin;
create temp table objects (object jsonb, sqlstate text, problem text);
create temp table good as select subscription('s', 'acme', jsonb_build_array(item('i', price('p', product('q'), '"1"')))) as s;
insert into objects values
  (null, 'WQ016', 'NULL'), ('null', 'WQ016', 'JSON null'), ('[]', 'WQ016', 'an array'), ('"x"', 'WQ016', 'a text'), ('5', 'WQ016', 'a number'), ('{}', 'WQ016', 'nothing in it'),
  ('{"object": "product"}', 'WQ016', 'no id'), ('{"object": "product", "id": ""}', 'WQ016', 'an empty id'), ('{"object": "product", "id": 5}', 'WQ016', 'a number as id'),
  ('{"object": 5, "id": "x"}', 'WQ016', 'a number as type'), ('{"id": "x"}', 'WQ016', 'no type'),
  ('{"object": "invoice", "id": "x"}', 'WQ017', 'an invoice'), ('{"object": "event", "id": "x"}', 'WQ017', 'an event'), ('{"object": "list", "id": "x", "data": []}', 'WQ017', 'a list'),
  (product('q') || '{"metadata": []}', 'WQ016', 'metadata as array'), (product('q') || '{"metadata": "x"}', 'WQ016', 'metadata as text'),
  (product('q') || '{"active": "yes"}', 'WQ016', 'a flag as text'), (product('q') || '{"created": "yesterday"}', 'WQ016', 'a time as text'),
  (product('q') || '{"created": -1}', 'WQ016', 'a time before 1970'), (product('q') || '{"created": 1e300}', 'WQ016', 'a time without end'),
  (product('q') || '{"deleted": "true"}', 'WQ016', 'deleted as text'),
  (product('q') || jsonb_build_object('id', repeat('x', 256)), 'WQ016', 'an id too long'),
  (price('p', product('q')) || '{"recurring": {"interval": 5}}', 'WQ016', 'an interval as number'), (price('p', product('q')) || '{"recurring": {"interval": "month", "interval_count": "x"}}', 'WQ016', 'a count as text'),
  (price('p', product('q') - 'id'), 'WQ016', 'a product without id'), (price('p', '5'), 'WQ016', 'a product as number'),
  ((select s - 'customer' from good), 'WQ016', 'no customer'), ((select s || '{"customer": null}' from good), 'WQ016', 'a null customer'),
  ((select s - 'items' from good), 'WQ016', 'no items'), ((select s || '{"items": []}' from good), 'WQ016', 'items as array'),
  ((select s || '{"items": {"data": {}}}' from good), 'WQ016', 'items'' data as object'), ((select s || '{"items": {"data": [5]}}' from good), 'WQ016', 'an item as number'),
  ((select s || '{"items": {"data": [], "has_more": "perhaps"}}' from good), 'WQ016', 'has_more as text'),
  ((select s || '{"items": {"data": [], "has_more": 5}}' from good), 'WQ016', 'has_more as number'),
  ((select s #- '{items,data,0,id}' from good), 'WQ016', 'an item without id'), ((select s #- '{items,data,0,current_period_end}' from good), 'WQ016', 'an item without end'),
  ((select s #- '{items,data,0,current_period_start}' from good), 'WQ016', 'an item without start'),
  ((select jsonb_set(s, '{items,data,0,current_period_end}', s #> '{items,data,0,current_period_start}') from good), 'WQ016', 'an empty period'),
  ((select jsonb_set(s, '{items,data,0,quantity}', '-1') from good), 'WQ016', 'a negative quantity'),
  ((select jsonb_set(s, '{items,data,0,price,metadata}', '7') from good), 'WQ016', 'a malformed part'),
  ((select s - 'status' from good), 'WQ016', 'no status'), ((select s || '{"status": null}' from good), 'WQ016', 'a null status');
select plan((select count(*)::integer + 6 from objects));
select set_clock('2026-04-15Z');
select refuses(format($$select * from stepquota.apply_stripe_object(%L::jsonb, '2026-04-15Z')$$, o.object), o.sqlstate, o.problem) from objects o;
select refuses(format($$select * from stepquota.apply_stripe_object(%L::jsonb, %L)$$, product('q'), m.moment), 'WQ001', 'asked for at ' || coalesce(m.moment, 'NULL')) from (values (null), ('infinity'), ('-infinity')) m (moment);
-- A deletion needs no more than type and id, and is not disturbed by what else it says.
select lives_ok(format($$select * from stepquota.apply_stripe_object(%L::jsonb, '2026-04-15Z')$$, o), 'a deletion: ' || o)
from unnest(array['{"object": "subscription", "id": "s", "deleted": true}', '{"object": "subscription", "id": "s2", "deleted": true, "items": {"data": "x"}}', '{"object": "subscription", "id": "s3", "deleted": true, "items": {"data": null}}']) o;
select * from finish();
rollback;
