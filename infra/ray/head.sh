#!/usr/bin/env bash
# Starts a Ray head on this machine: every client must show a token, and the dashboard listens on loopback only.
# What follows the script's name goes to `ray start`. `ray stop` ends it.
set -euo pipefail

export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null # in ~/.ray/auth_token; one that is there stays
exec ray start --head --dashboard-host 127.0.0.1 "$@"
