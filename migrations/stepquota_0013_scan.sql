-- What the scan remembers, so that its look for inputs edited by hand is one comparison of numbers.

alter table stepquota.paused_tenants add column if not exists inputs_hash bigint;
alter table stepquota.scan_state add column if not exists queue_looked_at_to text not null default '';

comment on column stepquota.paused_tenants.inputs_hash is
  'Its inputs (plan, tier, policy, Stripe objects) as one number, when the scan last compared them; NULL before the first time.';
comment on column stepquota.scan_state.queue_looked_at_to is
  'The tenant up to which the last scan looked for open quota waits that nobody would come back to.';
