-- A batch size that cannot be meant is refused before anything is written; the scan needs no transaction
-- block of its caller's.
-- transaction: none
select plan(5);
select refuses(format('call stepquota.resume_scan(%s)', n), 'WQ001', 'batch size ' || n) from unnest(array['null', '0', '-1', '100001']) n;
select is((select count(*) from stepquota.resume_scans), 0::bigint, 'no scan has begun');
select * from finish();
