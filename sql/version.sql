-- Which release the functions are of.

create or replace function stepquota.version()
returns text
language sql
immutable
as $version$
  select '0.2.0'::text;
$version$;

comment on function stepquota.version() is
  'The release that the installed functions are of, as major.minor.patch.';
