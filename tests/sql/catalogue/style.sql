-- What the sources promise of themselves.
begin;
select plan(9);
select is_empty($$select p.oid::regprocedure, n from pg_proc p cross join lateral unnest(p.proargnames, coalesce(p.proargmodes, array_fill('i'::"char", array[p.pronargs]))) as a (n, m)
   where p.pronamespace = 'stepquota'::regnamespace and a.m in ('i', 'b') and a.n !~ '^p_'$$, 'every parameter has the prefix p_');
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.pronargs > 0 and p.proargnames is null$$, 'and a name');
select is_empty($$select p.proname from pg_proc p where p.pronamespace = 'stepquota'::regnamespace group by 1 having count(*) > 1$$, 'no function is overloaded');
select is_empty($$select p.oid::regprocedure from pg_proc p join pg_language l on l.oid = p.prolang where p.pronamespace = 'stepquota'::regnamespace and l.lanname not in ('sql', 'plpgsql')$$, 'all are SQL or PL/pgSQL');
select is_empty($$select t.tgrelid::regclass, t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'stepquota'::regnamespace and not t.tgisinternal$$, 'no triggers');
select is_empty($$select r.ev_class::regclass from pg_rewrite r join pg_class c on c.oid = r.ev_class where c.relnamespace = 'stepquota'::regnamespace and c.relkind <> 'v'$$, 'no rules');
-- Keys begin with tenant wherever a row belongs to one; unique indexes too.
select is_empty($$select i.indexrelid::regclass from pg_index i join pg_class c on c.oid = i.indrelid
   where c.relnamespace = 'stepquota'::regnamespace and i.indisunique and exists (select 1 from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant')
     and c.relname not like 'stripe%' and (select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum = i.indkey[0]) <> 'tenant'$$, 'tenant is first in every key of a tenant''s table');
select is_empty($$select k.conname, k.conrelid::regclass from pg_constraint k join pg_class c on c.oid = k.conrelid where c.relnamespace = 'stepquota'::regnamespace and k.contype = 'f'$$, 'no foreign keys');
-- NOT NULL constraints have entries of their own since PostgreSQL 18.
select is_empty($$select k.conname, k.conrelid::regclass from pg_constraint k join pg_class c on c.oid = k.conrelid where c.relnamespace = 'stepquota'::regnamespace and not c.relispartition and k.contype = 'c' and k.conname ~ '_check[0-9]*$'$$, 'checks are named');
select * from finish();
rollback;
