#!/bin/sh
# Makes sure that a RabbitMQ broker can be started, or says in one line what to do.
set -eu
[ -n "${AMQP_URL:-}" ] && exit 0
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && command -v epmd >/dev/null && exit 0
advice="RabbitMQ is needed: install the package rabbitmq-server, or set AMQP_URL to a running broker"
command -v apt-get >/dev/null || { echo "$advice" >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo"; else echo "$advice" >&2; exit 1; fi
echo "installing rabbitmq-server"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
{ $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends rabbitmq-server; } >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    echo "$advice" >&2
    exit 1
}
rm -f "$log"
