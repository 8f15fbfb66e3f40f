-- Who listens to debug messages gets the reservation's figures, and the same answer.

begin;
select plan(1);

set local client_min_messages = debug1;
select is(row(r.allowed, r.used_count)::text, '(t,1)', 'a reservation with somebody who listens')
  from stepquota.reserve_workflow_step('acme') r;
reset client_min_messages;

select * from finish();
rollback;
