"""The effective rights of the API's user, from PostgreSQL's catalogs, and which of them are excessive (docs/adr/0025).

A role has the rights that were granted to it, to PUBLIC, and to each role of which it is a member, directly or through
other roles, with or without inheritance; and it has all rights on the objects that it owns. Every catalog that records
an owner or an access list is read, so rights on objects that this service does not use are found too.

The statements need a search path of `pg_catalog` only. PostgreSQL manual: 5.8 "Privileges", chapter 22 "Database
Roles", chapter 53 "System Catalogs".
"""

from collections.abc import Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

from alembic.util import CommandError
from sqlalchemy import Connection, text

from handler.migrations.history import VERSION_TABLE

# The role of RDS whose members log in with a token in place of a password (Aurora user guide, "Creating a database
# account using IAM authentication").
IAM = "rds_iam"
# Beginnings of the names of roles whose rights are in no catalog: PostgreSQL's predefined roles (manual, 22.5), and
# RDS's roles.
PREDEFINED = ("pg_", "rds_", "rdsadmin")
# Attributes of a role (manual, 22.2 "Role Attributes"), by their columns of pg_roles.
ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}


class ObjectKind(NamedTuple):
    """A kind of object with an access list: its key words, and the privileges that the role may have."""

    keyword: str  # in GRANT
    default_keyword: str = ""  # in ALTER DEFAULT PRIVILEGES
    allowed: tuple[str, ...] = ()


ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# By the letters of the function acldefault (manual, 9.27.2).
KINDS = {
    "r": ObjectKind("TABLE", "TABLES", ROWS),
    "c": ObjectKind("TABLE", allowed=ROWS),  # one of its columns
    "s": ObjectKind("SEQUENCE", "SEQUENCES", ("USAGE",)),
    "n": ObjectKind("SCHEMA", "SCHEMAS", ("USAGE",)),
    "d": ObjectKind("DATABASE", allowed=("CONNECT",)),
    "f": ObjectKind("ROUTINE", "ROUTINES", ("EXECUTE",)),
    "T": ObjectKind("TYPE", "TYPES", ("USAGE",)),
    "l": ObjectKind("LANGUAGE", allowed=("USAGE",)),
    "L": ObjectKind("LARGE OBJECT", "LARGE OBJECTS"),
    "F": ObjectKind("FOREIGN DATA WRAPPER"),
    "S": ObjectKind("FOREIGN SERVER"),
    "t": ObjectKind("TABLESPACE"),
    "p": ObjectKind("PARAMETER"),
}
# The beginning of every statement below: the role, and every role whose rights it has or can take with SET ROLE. Two
# memberships are left out, because another right is reported for them: the owner of a database is a member of
# pg_database_owner, and a superuser counts as a member of every role.
HELD = """
WITH held AS (
    SELECT oid, rolname FROM pg_roles
    WHERE rolname = :user OR (
        pg_has_role(:user, oid, 'MEMBER') AND rolname NOT IN (:iam, 'pg_database_owner')
        AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = :user)
    )
)
"""
ROLES = "SELECT pg_roles.* FROM pg_roles WHERE oid IN (SELECT oid FROM held) ORDER BY rolname <> :user, rolname"
# `leads_to` contains the roles whose rights the role has through this membership.
MEMBERSHIPS = """
SELECT pg_get_userbyid(member) AS member, pg_get_userbyid(roleid) AS role, pg_get_userbyid(grantor) AS grantor,
    admin_option, ARRAY(SELECT rolname::text FROM held WHERE pg_has_role(roleid, held.oid, 'MEMBER')) AS leads_to
FROM pg_auth_members WHERE member IN (SELECT oid FROM held)
ORDER BY 1, 2, 3
"""
# Large objects and default privileges are left out, because the right of a role to create them cannot be revoked.
OWNED = """
SELECT held.rolname AS holder, type, identity
FROM pg_shdepend d JOIN held ON held.oid = d.refobjid, LATERAL pg_identify_object(d.classid, d.objid, d.objsubid)
WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND d.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
ORDER BY 1, 2, 3
"""
# A missing access list means the default, which is excessive only on a database. The rights of PUBLIC on other
# databases and on the server's own objects are left out, because they do not belong to this service.
GRANTS = """
, objects (kind, class, object, relation, attribute, namespace, owner, acl) AS (
    SELECT CASE relkind WHEN 'S' THEN 's' ELSE 'r' END, 'pg_class'::regclass, oid, relname, NULL::name, relnamespace,
        relowner, relacl FROM pg_class
    UNION ALL SELECT 'c', 'pg_class'::regclass, attrelid, relname, attname, relnamespace, relowner, attacl
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    UNION ALL SELECT 'f', 'pg_proc'::regclass, oid, NULL, NULL, pronamespace, proowner, proacl FROM pg_proc
    UNION ALL SELECT 'T', 'pg_type'::regclass, oid, NULL, NULL, typnamespace, typowner, typacl FROM pg_type
    UNION ALL SELECT 'n', 'pg_namespace'::regclass, oid, NULL, NULL, NULL, nspowner, nspacl FROM pg_namespace
    UNION ALL SELECT 'l', 'pg_language'::regclass, oid, NULL, NULL, NULL, lanowner, lanacl FROM pg_language
    UNION ALL SELECT 'L', 'pg_largeobject'::regclass, oid, NULL, NULL, NULL, lomowner, lomacl
        FROM pg_largeobject_metadata
    UNION ALL SELECT 'F', 'pg_foreign_data_wrapper'::regclass, oid, NULL, NULL, NULL, fdwowner, fdwacl
        FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'S', 'pg_foreign_server'::regclass, oid, NULL, NULL, NULL, srvowner, srvacl FROM pg_foreign_server
    UNION ALL SELECT 't', 'pg_tablespace'::regclass, oid, NULL, NULL, NULL, spcowner, spcacl FROM pg_tablespace
    UNION ALL SELECT 'd', 'pg_database'::regclass, oid, NULL, NULL, NULL, datdba,
        coalesce(datacl, acldefault('d', datdba)) FROM pg_database
    -- parameters
)
SELECT kind, identified.identity, relation, attribute, is_of_the_server, pg_get_userbyid(owner) AS owner,
    pg_get_userbyid(grantor) AS grantor, CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END AS grantee,
    privilege_type AS privilege, is_grantable
FROM objects, LATERAL aclexplode(acl), LATERAL pg_identify_object(class, object, 0) identified,
    LATERAL (SELECT namespace IS NOT NULL AND namespace IN (
        SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast')
    )) of_the_server (is_of_the_server)
WHERE owner NOT IN (SELECT oid FROM held) AND (
    grantee IN (SELECT oid FROM held) OR (
        grantee = 0 AND NOT is_of_the_server
        AND (kind <> 'd' OR object = (SELECT oid FROM pg_database WHERE datname = current_database()))
    )
)
ORDER BY kind, identity, attribute, grantee, grantor, privilege
"""
# Since PostgreSQL 15. Parameters have no owner; 10 is the oid of the first superuser.
PARAMETERS = (
    "UNION ALL SELECT 'p', 'pg_parameter_acl'::regclass, oid, NULL, NULL, NULL, 10, paracl FROM pg_parameter_acl"
)
FUTURE_GRANTS = """
SELECT CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END AS kind, nspname AS schema,
    pg_get_userbyid(defaclrole) AS owner, CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END AS grantee,
    privilege_type AS privilege, is_grantable, NULL AS relation, false AS is_of_the_server
FROM pg_default_acl LEFT JOIN pg_namespace ON pg_namespace.oid = defaclnamespace, LATERAL aclexplode(defaclacl)
WHERE defaclrole NOT IN (SELECT oid FROM held) AND (grantee = 0 OR grantee IN (SELECT oid FROM held))
ORDER BY kind, schema, owner, grantee, privilege
"""


class ExcessiveRight(NamedTuple):
    """The description of an excessive right, and the statement that revokes it."""

    right: str
    statement: str


def check(connection: Connection, user: str) -> None:
    """Raise CommandError if the role `user` may do more than read and change rows.

    The message contains each excessive right, and the statement that revokes it.
    """
    role = _Role(connection, user)
    found: dict[str, list[str]] = {}
    for right, statement in chain(*(kind(role) for kind in (_attributes, _memberships, _owned, _granted, _by_default))):
        found.setdefault(statement, []).append(right)
    if found:
        lines = [f"\n{', '.join(rights)}: {statement};" for statement, rights in found.items()]
        raise CommandError(
            f"DATABASE_API_USER: {user} may do more than read and change rows. Revoke these rights, or name another"
            f" user.{''.join(lines)}"
        )


class _Role:
    """The role that is checked, and its memberships."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.connection = connection
        self.quote = connection.dialect.identifier_preparer.quote
        self.server_version = connection.dialect.server_version_info or (0,)
        self.memberships = self.rows(MEMBERSHIPS)

    def rows(self, statement: str) -> Any:
        return self.connection.execute(text(HELD + statement), {"user": self.name, "iam": IAM}).all()

    def revoke_membership(self, membership: Any, option: str = "") -> str:
        # Since PostgreSQL 16, a role can have the same membership from several grantors.
        by = f" GRANTED BY {self.quote(membership.grantor)}" if self.server_version >= (16,) else ""
        return f"REVOKE {option}{self.quote(membership.role)} FROM {self.quote(membership.member)}{by}"

    def revoke_memberships_in(self, group: str) -> str:
        """The statements after which the role is not a member of `group`, directly or through other roles."""
        direct = [one for one in self.memberships if one.member == self.name]
        return "; ".join(self.revoke_membership(one) for one in direct if group in one.leads_to)

    def held_by(self, holder: str | None, right: str, statement: str) -> ExcessiveRight:
        """A right that `statement` revokes from the role `holder`, or from PUBLIC if it is None."""
        if holder is None:
            return ExcessiveRight(f"{right} through PUBLIC", statement)
        if holder == self.name:
            return ExcessiveRight(right, statement)
        return ExcessiveRight(f"{right} through {holder}", self.revoke_memberships_in(holder))


def _attributes(role: _Role) -> Iterator[ExcessiveRight]:
    for holder in role.rows(ROLES):
        for column, attribute in ATTRIBUTES.items():
            if getattr(holder, column):
                yield role.held_by(holder.rolname, attribute, f"ALTER ROLE {role.quote(role.name)} NO{attribute}")


def _memberships(role: _Role) -> Iterator[ExcessiveRight]:
    for holder in role.rows(ROLES):
        if holder.rolname != role.name and holder.rolname.startswith(PREDEFINED):
            yield ExcessiveRight(f"membership in {holder.rolname}", role.revoke_memberships_in(holder.rolname))
    for one in role.memberships:
        if one.admin_option:
            statement = role.revoke_membership(one, "ADMIN OPTION FOR ")
            yield role.held_by(one.member, f"ADMIN OPTION on {one.role}", statement)


def _owned(role: _Role) -> Iterator[ExcessiveRight]:
    owner = role.connection.scalar(text("SELECT quote_ident(current_user)"))
    reassign = f"REASSIGN OWNED BY {role.quote(role.name)} TO {owner}"
    for one in role.rows(OWNED):
        yield role.held_by(one.holder, f"owner of {one.type} {one.identity}", reassign)


def _granted(role: _Role) -> Iterator[ExcessiveRight]:
    statement = GRANTS.replace("-- parameters", PARAMETERS if role.server_version >= (15,) else "")
    key = ("kind", "identity", "attribute", "grantee", "grantor", "owner")
    for one, privileges, option in _excessive(role.rows(statement), *key):
        column = f" ({role.quote(one.attribute)})" if one.attribute else ""
        names = ", ".join(f"{privilege}{column}" for privilege in privileges)
        right = f"{option}{names} ON {KINDS[one.kind].keyword} {one.identity}"
        grantee = role.quote(one.grantee) if one.grantee else "PUBLIC"
        revoke = f"REVOKE {right} FROM {grantee}{' CASCADE' if option else ''}"
        if one.grantor != one.owner:  # REVOKE revokes only grants of the current role or of the owner
            revoke = f"SET ROLE {role.quote(one.grantor)}; {revoke}; RESET ROLE"
        yield role.held_by(one.grantee, right, revoke)


def _by_default(role: _Role) -> Iterator[ExcessiveRight]:
    for one, privileges, option in _excessive(role.rows(FUTURE_GRANTS), "kind", "schema", "grantee", "owner"):
        right = f"{option}{', '.join(privileges)} ON {KINDS[one.kind].default_keyword}"
        schema = f" IN SCHEMA {role.quote(one.schema)}" if one.schema else ""
        revoke = f"REVOKE {right} FROM {role.quote(one.grantee) if one.grantee else 'PUBLIC'}"
        statement = f"ALTER DEFAULT PRIVILEGES FOR ROLE {role.quote(one.owner)}{schema} {revoke}"
        yield role.held_by(one.grantee, f"{right} by default", statement)


def _excessive(rows: list[Any], *key: str) -> Iterator[tuple[Any, list[str], str]]:
    """Yield the excessive grants, grouped by `key`: the first grant of a group, the privileges of all, and a prefix.

    The prefix is "GRANT OPTION FOR " if the privileges are allowed, but not the right to grant them.
    """
    found = []
    for row in rows:
        is_allowed = row.privilege in KINDS[row.kind].allowed
        is_allowed = is_allowed and not row.is_of_the_server and row.relation != VERSION_TABLE
        if row.is_grantable or not is_allowed:
            found.append((row, "GRANT OPTION FOR " if is_allowed else ""))
    for _, group in groupby(found, lambda one: (one[1], *attrgetter(*key)(one[0]))):
        members = list(group)
        row, option = members[0]
        yield row, [one.privilege for one, _ in members], option
