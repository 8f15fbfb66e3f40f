-- The release is major.minor.patch.
begin;
select plan(1);
select matches(stepquota.version(), '^[0-9]+\.[0-9]+\.[0-9]+$', 'major.minor.patch');
select * from finish();
rollback;
