#!/usr/bin/env bash
# Makes the private Python environment of the tests, `.build/venv-tests`, from requirements.txt; does nothing when it is
# already there and of these very requirements. Prints the path of its interpreter. Exit 3: there is no usable python3.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
mkdir -p "$root/.build"
# The real folder, should .build be a link: what pip installs names it, and must outlive this clone.
venv="${WEIR_TEST_VENV:-$(cd "$root/.build" && pwd -P)/venv-tests}"
wanted="$(cksum < "$here/requirements.txt")"

if [ "$(cat "$venv/.requirements" 2>/dev/null || true)" = "$wanted" ] && [ -x "$venv/bin/python" ]; then
  echo "$venv/bin/python"
  exit 0
fi

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  echo "python3 with venv is missing; install it with: apt-get install python3-venv" >&2
  exit 3
fi

mkdir -p "$(dirname "$venv")"
# Two test processes may arrive at once: the second waits and then finds the work done.
exec 9>"$venv.lock"
flock 9
if [ "$(cat "$venv/.requirements" 2>/dev/null || true)" != "$wanted" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2
  echo "$wanted" > "$venv/.requirements"
fi
echo "$venv/bin/python"
