-- What grant_role gave to roles that were there already, to be stated again at each load.

create table if not exists stepquota.role_grants (
  role_name text not null,
  rights text not null,
  given_as text not null,
  granted_by text not null,
  granted_at timestamptz not null,
  constraint role_grants_pkey primary key (role_name, rights),
  constraint role_grants_rights_is_known check (rights in ('runtime', 'operator', 'sync', 'observer')),
  constraint role_grants_given_as_is_known check (given_as in ('membership', 'direct'))
);

comment on table stepquota.role_grants is
  'Rights that grant_role gave to roles of the installer''s; each migrate states them again.';
comment on column stepquota.role_grants.role_name is 'The role. One that is gone is forgotten at the next migrate.';
comment on column stepquota.role_grants.rights is 'runtime, operator, sync or observer.';
comment on column stepquota.role_grants.given_as is
  'membership of the role stepquota_..., or direct: granted to the role itself.';
comment on column stepquota.role_grants.granted_by is 'The role that was connected.';
comment on column stepquota.role_grants.granted_at is 'When it was first given.';
