#!/bin/sh
# Makes the secrets of compose.yaml that are not there yet: make-secrets.sh [DIRECTORY]
#
# Only root reads the directory; the files in it are open, since each container has an account of its own.
set -eu

directory=${1:-$(dirname "$0")/secrets}
mkdir -p "$directory"
chmod 700 "$directory"
cd "$directory"

secret() { # NAME CONTENT
    test -s "$1" || printf '%s' "$2" >"$1"
    chmod 444 "$1"
}

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

secret owner-password "$(random)"
secret writer-password "$(random)"
secret owner-url "postgresql://vaeseg_owner:$(cat owner-password)@db/vaeseg"
secret writer-url "postgresql://vaeseg_writer:$(cat writer-password)@db/vaeseg"
secret ray-token "$(random)"
secret grafana-password "$(random)"
