#!/bin/sh
# Makes the database on the first start and becomes PostgreSQL.
#
# A fresh volume may belong to root, so this may start as root; it hands the volume over and goes
# on as postgres. The cluster is made beside its final place and renamed, so that a start which was
# cut short is begun again instead of half a cluster being used.
set -eu

volume=/var/lib/postgresql/data
cluster=$volume/15
password=${DB_PASSWORD_FILE:-/run/secrets/db_password}

if [ "$(id -u)" = 0 ]; then
    chown postgres:postgres "$volume"
    if [ ! -d "$cluster" ]; then
        # The secret may be readable by root only; the copy lives until initdb has read it.
        install -o postgres -g postgres -m 0400 "$password" /tmp/password
    fi
    exec setpriv --reuid=postgres --regid=postgres --init-groups --no-new-privs "$0" "$@"
fi

if [ ! -d "$cluster" ]; then
    if [ -f /tmp/password ]; then
        password=/tmp/password
    fi
    rm -rf "$cluster.new"
    initdb --pgdata="$cluster.new" --username=votes --pwfile="$password" \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo "host all all all scram-sha-256" >> "$cluster.new/pg_hba.conf"
    echo "CREATE DATABASE votes" | postgres --single -D "$cluster.new" postgres > /dev/null
    rm -f /tmp/password
    mv "$cluster.new" "$cluster"
    echo "database created"
fi

exec postgres -D "$cluster" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
