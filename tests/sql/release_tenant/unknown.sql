-- A tenant of which nothing is stored is not stopped; a slip of the pen makes no tenant.
select plan(5);
select is((stepquota.release_tenant('typo', 'x')).tenant, 'typo', 'there is nothing to release');
select is((stepquota.reinstate_tenant('typo', 'x')).suspended_at, null, 'nor to reinstate');
select is_empty('select * from stepquota.tenants', 'and no tenant comes of it');
select is_empty('select * from stepquota.quota_events', 'and nothing is told of it');
select is((stepquota.hold_tenant('later', 'x')).tenant, 'later', 'a hold may come before the tenant does');
select * from finish();
