#!/bin/sh
# Installs from Debian what is missing of PROGRAM:PACKAGE ..., where this is root; else the tests that need it say so.
set -eu
missing=
for each in "$@"; do
  command -v "${each%%:*}" > /dev/null || missing="$missing ${each#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "not installed here:$missing"
  exit 0
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing > /dev/null
