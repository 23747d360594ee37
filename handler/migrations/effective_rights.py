"""The effective rights of the API's user, from PostgreSQL's catalogs, and which of them are too much (docs/adr/0025).

A role has what was granted to it, to PUBLIC, and to each role that it is a member of, directly or through others,
whether it inherits those rights or has to SET ROLE; and it has everything that it owns. Every catalog that records an
owner or an access list is read, so that rights on kinds of objects that this service does not use are found too.

The statements need `pg_catalog` alone in the search path. PostgreSQL manual: 5.8 "Privileges", chapter 22 "Database
Roles", chapter 53 "System Catalogs".
"""

from collections.abc import Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

from alembic.util import CommandError
from sqlalchemy import Connection, text

from handler.migrations.history import VERSION_TABLE

# Its members log in with a token in place of a password. Only RDS has it (Aurora user guide, "Creating a database
# account using IAM authentication").
IAM = "rds_iam"
# How the names of roles begin whose rights are in no catalog: PostgreSQL's (manual, 22.5 "Predefined Roles") and RDS's.
PREDEFINED = ("pg_", "rds_", "rdsadmin")
# Attributes of a role (manual, 22.2 "Role Attributes"), by their columns of pg_roles.
ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}


class Kind(NamedTuple):
    """A kind of object with an access list: its words in GRANT, and which privileges on it are not too much."""

    keyword: str
    future: str = ""  # its keyword in ALTER DEFAULT PRIVILEGES
    allowed: tuple[str, ...] = ()


ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# By the letters of the function acldefault (manual, 9.27.2).
KINDS = {
    "r": Kind("TABLE", "TABLES", ROWS),
    "c": Kind("TABLE", allowed=ROWS),  # one of its columns
    "s": Kind("SEQUENCE", "SEQUENCES", ("USAGE",)),
    "n": Kind("SCHEMA", "SCHEMAS", ("USAGE",)),
    "d": Kind("DATABASE", allowed=("CONNECT",)),
    "f": Kind("ROUTINE", "ROUTINES", ("EXECUTE",)),
    "T": Kind("TYPE", "TYPES", ("USAGE",)),
    "l": Kind("LANGUAGE", allowed=("USAGE",)),
    "L": Kind("LARGE OBJECT", "LARGE OBJECTS"),
    "F": Kind("FOREIGN DATA WRAPPER"),
    "S": Kind("FOREIGN SERVER"),
    "t": Kind("TABLESPACE"),
    "p": Kind("PARAMETER"),
}
# What every statement below begins with: the role, and every role whose rights it has or can take. The owner of a
# database is a member of pg_database_owner without any grant, where it is too much that it owns the database. A
# superuser passes for a member of every role, where it is too much that it is a superuser.
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
# `leads_to` are the roles whose rights come through this membership.
MEMBERSHIPS = """
SELECT pg_get_userbyid(member) AS member, pg_get_userbyid(roleid) AS role, pg_get_userbyid(grantor) AS grantor,
    admin_option, ARRAY(SELECT rolname::text FROM held WHERE pg_has_role(roleid, held.oid, 'MEMBER')) AS leads_to
FROM pg_auth_members WHERE member IN (SELECT oid FROM held)
ORDER BY 1, 2, 3
"""
# Every role may create large objects, and say who may do what with the objects that it creates. Neither can be taken
# away.
OWNED = """
SELECT held.rolname AS holder, type, identity
FROM pg_shdepend d JOIN held ON held.oid = d.refobjid, LATERAL pg_identify_object(d.classid, d.objid, d.objsubid)
WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND d.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
ORDER BY 1, 2, 3
"""
# A missing access list is the default, which gives nothing that is too much except on a database. What PUBLIC has in
# other databases and on the server's own objects is not for this service to decide.
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
# Since PostgreSQL 15. They have no owner; the first superuser, whose oid is 10, stands in for one.
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


class Excess(NamedTuple):
    """A right that is too much, in words, and the statement that takes it away."""

    right: str
    statement: str


def check(connection: Connection, user: str) -> None:
    """Raise CommandError where the role `user` may do more than read and change rows.

    The message names each right that is too much, and the statement that takes it away.
    """
    role = _Role(connection, user)
    found: dict[str, list[str]] = {}
    for right, statement in chain(*(kind(role) for kind in (_attributes, _memberships, _owned, _granted, _by_default))):
        found.setdefault(statement, []).append(right)
    if found:
        lines = [f"\n{', '.join(rights)}: {statement};" for statement, rights in found.items()]
        raise CommandError(
            f"DATABASE_API_USER: {user} may do more than read and change rows. Take away what is too much, or name"
            f" another user.{''.join(lines)}"
        )


class _Role:
    """The role that is checked."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.connection = connection
        self.quote = connection.dialect.identifier_preparer.quote
        self.server_version = connection.dialect.server_version_info or (0,)
        self.memberships = self.rows(MEMBERSHIPS)

    def rows(self, statement: str) -> Any:
        return self.connection.execute(text(HELD + statement), {"user": self.name, "iam": IAM}).all()

    def leave(self, membership: Any, option: str = "") -> str:
        # Since PostgreSQL 16 each role that has granted a membership keeps one of its own.
        by = f" GRANTED BY {self.quote(membership.grantor)}" if self.server_version >= (16,) else ""
        return f"REVOKE {option}{self.quote(membership.role)} FROM {self.quote(membership.member)}{by}"

    def ways_out(self, of: str) -> str:
        """The statements after which the role is no member of the role `of`, not through another role either."""
        return "; ".join(self.leave(one) for one in self.memberships if one.member == self.name and of in one.leads_to)

    def held_by(self, holder: str | None, right: str, statement: str) -> Excess:
        """A right of the role `holder`, which `statement` takes away from it; None is PUBLIC."""
        if holder is None:
            return Excess(f"{right} through PUBLIC", statement)
        if holder == self.name:
            return Excess(right, statement)
        return Excess(f"{right} through {holder}", self.ways_out(holder))


def _attributes(role: _Role) -> Iterator[Excess]:
    for holder in role.rows(ROLES):
        for column, attribute in ATTRIBUTES.items():
            if getattr(holder, column):
                yield role.held_by(holder.rolname, attribute, f"ALTER ROLE {role.quote(role.name)} NO{attribute}")


def _memberships(role: _Role) -> Iterator[Excess]:
    for holder in role.rows(ROLES):
        if holder.rolname != role.name and holder.rolname.startswith(PREDEFINED):
            yield Excess(f"membership in {holder.rolname}", role.ways_out(holder.rolname))
    for one in role.memberships:
        if one.admin_option:
            yield role.held_by(one.member, f"ADMIN OPTION on {one.role}", role.leave(one, "ADMIN OPTION FOR "))


def _owned(role: _Role) -> Iterator[Excess]:
    owner = role.connection.scalar(text("SELECT quote_ident(current_user)"))
    reassign = f"REASSIGN OWNED BY {role.quote(role.name)} TO {owner}"
    for one in role.rows(OWNED):
        yield role.held_by(one.holder, f"owner of {one.type} {one.identity}", reassign)


def _granted(role: _Role) -> Iterator[Excess]:
    statement = GRANTS.replace("-- parameters", PARAMETERS if role.server_version >= (15,) else "")
    key = ("kind", "identity", "attribute", "grantee", "grantor", "owner")
    for one, privileges, option in _too_much(role.rows(statement), *key):
        column = f" ({role.quote(one.attribute)})" if one.attribute else ""
        names = ", ".join(f"{privilege}{column}" for privilege in privileges)
        right = f"{option}{names} ON {KINDS[one.kind].keyword} {one.identity}"
        grantee = role.quote(one.grantee) if one.grantee else "PUBLIC"
        revoke = f"REVOKE {right} FROM {grantee}{' CASCADE' if option else ''}"
        if one.grantor != one.owner:  # REVOKE takes away what its own role has granted, or the owner
            revoke = f"SET ROLE {role.quote(one.grantor)}; {revoke}; RESET ROLE"
        yield role.held_by(one.grantee, right, revoke)


def _by_default(role: _Role) -> Iterator[Excess]:
    for one, privileges, option in _too_much(role.rows(FUTURE_GRANTS), "kind", "schema", "grantee", "owner"):
        right = f"{option}{', '.join(privileges)} ON {KINDS[one.kind].future}"
        schema = f" IN SCHEMA {role.quote(one.schema)}" if one.schema else ""
        revoke = f"REVOKE {right} FROM {role.quote(one.grantee) if one.grantee else 'PUBLIC'}"
        statement = f"ALTER DEFAULT PRIVILEGES FOR ROLE {role.quote(one.owner)}{schema} {revoke}"
        yield role.held_by(one.grantee, f"{right} by default", statement)


def _too_much(rows: list[Any], *key: str) -> Iterator[tuple[Any, list[str], str]]:
    """The grants that are too much, those with the same `key` together: one of them, and the privileges of all.

    The third is "GRANT OPTION FOR " where the privileges may stay, but not the right to pass them on.
    """
    found = []
    for row in rows:
        may_stay = row.privilege in KINDS[row.kind].allowed
        may_stay = may_stay and not row.is_of_the_server and row.relation != VERSION_TABLE
        if row.is_grantable or not may_stay:
            found.append((row, "GRANT OPTION FOR " if may_stay else ""))
    for _, group in groupby(found, lambda one: (one[1], *attrgetter(*key)(one[0]))):
        members = list(group)
        row, option = members[0]
        yield row, [one.privilege for one, _ in members], option
