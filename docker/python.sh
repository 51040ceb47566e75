#!/bin/sh
# Python with a virtual environment at /opt/hyperclova, from the base's own or from Debian's and Ubuntu's packages.
#   python.sh                     for building: makes the environment
#   python.sh runtime [PACKAGE…]  for running: what its interpreter and libraries need, and such packages
set -eu
python=$(command -v python3.11 || command -v python3.12 || true)
packages="ca-certificates tzdata"
if [ -z "$python" ]; then packages="$packages python3 python3-venv"; fi
if [ "${1:-}" = runtime ]; then shift; packages="$packages libgomp1 $*"; fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
if [ ! -d /opt/hyperclova ] && [ "${packages#*libgomp1}" = "$packages" ]; then
    "${python:-python3}" -m venv /opt/hyperclova
fi
