-- Roles that are bound to one tenant.

-- What every reservation reads anyway: NULL says that there is nothing more to ask.
alter table stepquota.policy
  add column if not exists bound_roles text[];

create table if not exists stepquota.tenant_role_bindings (
  tenant text not null,
  role_name text not null,
  role_oid oid not null,
  bound_at timestamptz not null,
  bound_by text not null,
  constraint tenant_role_bindings_pkey primary key (tenant, role_name)
);

create index if not exists tenant_role_bindings_role_name_idx on stepquota.tenant_role_bindings (role_name);
create index if not exists tenant_role_bindings_role_oid_idx on stepquota.tenant_role_bindings (role_oid);

comment on column stepquota.policy.bound_roles is
  'The roles that are bound to a tenant, quoted as SQL needs it; NULL while there are none. Written by bind_tenant_role and unbind_tenant_role.';
comment on table stepquota.tenant_role_bindings is
  'Which role may act for which tenant only. Written by bind_tenant_role and unbind_tenant_role.';
comment on column stepquota.tenant_role_bindings.tenant is 'The tenant.';
comment on column stepquota.tenant_role_bindings.role_name is 'The role''s name; the binding is that of the role which has it.';
comment on column stepquota.tenant_role_bindings.role_oid is 'Its number when it was bound, by which it is known after it was renamed.';
comment on column stepquota.tenant_role_bindings.bound_at is 'When.';
comment on column stepquota.tenant_role_bindings.bound_by is 'The login that bound it.';
