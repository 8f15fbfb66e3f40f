-- Every object says what it is.
begin;
select plan(6);
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and coalesce(length(obj_description(p.oid, 'pg_proc')), 0) < 5$$, 'every function and procedure');
select is_empty($$select c.oid::regclass from pg_class c where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'c')
    and coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type'), '') = ''$$, 'every table and composite type');
-- A partition's columns are its parent's; those that repeat a commented column of the same name in another type need not.
select is_empty($$select c.oid::regclass, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
   where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition and col_description(c.oid, a.attnum) is null$$, 'every column of a table');
select is_empty($$select distinct a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
   where c.relnamespace = 'stepquota'::regnamespace and c.relkind = 'c' and c.relname !~ '^_' and col_description(c.oid, a.attnum) is null
     and not exists (select 1 from pg_attribute o join pg_class oc on oc.oid = o.attrelid where oc.relnamespace = 'stepquota'::regnamespace and o.attname = a.attname and col_description(o.attrelid, o.attnum) is not null)$$,
  'every column of a public type, there or in the type it is repeated from');
-- Identity columns bring sequences of their own, which their column's comment covers.
select is_empty($$select c.oid::regclass from pg_class c where c.relnamespace = 'stepquota'::regnamespace and c.relkind = 'S' and obj_description(c.oid, 'pg_class') is null
    and not exists (select 1 from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'i')$$, 'every sequence');
select isnt(obj_description('stepquota'::regnamespace, 'pg_namespace'), null, 'and the schema');
select * from finish();
rollback;
