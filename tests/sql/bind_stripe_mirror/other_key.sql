-- A mirror belongs to one account and mode.
begin;
select plan(8);
select ok(stepquota.bind_stripe_mirror(null, false, 'v'), 'a key that may not say its account binds the mode');
select ok(not stepquota.bind_stripe_mirror('acct_1', false, 'v'), 'one that may, the account as well');
select ok(not stepquota.bind_stripe_mirror(null, false, 'v'), 'the first is still welcome');
select is((select array[account, livemode::text] from stepquota.stripe_sync_health()), array['acct_1', 'false'], 'both are known');
select refuses($$select stepquota.bind_stripe_mirror('acct_2', false, 'v')$$, 'WQ030', 'another account');
select refuses($$select stepquota.bind_stripe_mirror('acct_1', true, 'v')$$, 'WQ030', 'the other mode');
select apply(product('p'), price('r', '"p"'));
select set_eq('select object_id from stepquota.list_stripe_witnesses()', array['p', 'r'], 'witnesses are objects of the mirror');
select apply('{"id": "p", "object": "product", "deleted": true}');
select set_eq('select object_id from stepquota.list_stripe_witnesses()', array['r'], 'that are not deleted');
select * from finish();
rollback;
