#!/bin/sh
# Installs the Debian packages that the build needs and that are missing: as root, through sudo, or not at all, in which
# case the command is printed.
set -eu

packages="g++ make cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libopenblas-openmp-dev
libsentencepiece-dev libpcre2-dev libutf8proc-dev zlib1g-dev libgtest-dev libbenchmark-dev python3"

missing=""
for package in $packages; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
  echo "installing:$missing"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $install
elif command -v sudo >/dev/null 2>&1; then
  echo "installing with sudo:$missing"
  sudo apt-get update -qq
  sudo DEBIAN_FRONTEND=noninteractive $install
else
  echo "missing packages; run as root:" >&2
  echo "  apt-get update && $install" >&2
  exit 1
fi
