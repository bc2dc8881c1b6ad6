# shellcheck shell=bash
# What scripts/demo and scripts/test have in common: brings a fresh Debian machine to the point where
# .venv/bin/copper runs. Sourced, never run; a second run finds everything and does nothing.
#
#   . scripts/setup.sh; setup run          what a user needs
#   . scripts/setup.sh; setup run test     and what the tests need

set -euo pipefail
export LC_ALL=C.UTF-8 # numbers with a point, messages that scripts can read

COPPER_ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
COPPER_LOG="$COPPER_ROOT/build/setup.log"

# One fact, one advice, exit 1.
fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    [ $# -lt 2 ] || printf '  %s\n' "$2" >&2
    exit 1
}

# step TEXT COMMAND...: runs it with its output in the log; one line with the time it took.
step() {
    local text="$1" began=$EPOCHREALTIME status=0 from
    shift
    printf '  %-46s ' "$text"
    from=$(($(stat -c %s "$COPPER_LOG") + 1))
    printf '\n$ %s\n' "$(printf '%q ' "$@")" >>"$COPPER_LOG"
    "$@" >>"$COPPER_LOG" 2>&1 </dev/null || status=$?
    printf '%6.1f s\n' "$(seconds_since "$began")"
    [ "$status" -eq 0 ] && return
    tail -c "+$from" "$COPPER_LOG" | tail -n 25 >&2
    fail "failed with status $status: $text" "The whole output is in $COPPER_LOG"
}

seconds_since() {
    local now=$EPOCHREALTIME # microseconds, the point taken out
    printf '%s' "$((${now/./} - ${1/./}))e-6"
}

check_machine() {
    local id="" version=""
    [ "$(id -u)" -eq 0 ] || fail "must run as root" "Copper makes network namespaces and starts machines: try sudo $0"
    # shellcheck disable=SC1091
    [ ! -r /etc/os-release ] || { id="$(. /etc/os-release && printf '%s' "${ID:-}")" &&
        version="$(. /etc/os-release && printf '%s' "${VERSION_ID:-999}")"; }
    [ "$id" = debian ] && [ "${version%%.*}" -ge 12 ] ||
        fail "needs Debian 12 or newer, and this is ${id:-unknown} ${version/999/}" "Use a Debian 12 machine or virtual machine"
    [ "$(dpkg --print-architecture)" = amd64 ] ||
        fail "needs an amd64 machine, and this is $(dpkg --print-architecture)" "Use an x86-64 machine"
}

# packages_of SECTION...: the names listed in these sections of packages.txt.
packages_of() {
    awk -v wanted=" $* " '/^\[/ { on = index(wanted, " " substr($1, 2, length($1) - 2) " "); next }
        on && NF && !/^#/ { print $1 }' "$COPPER_ROOT/scripts/packages.txt"
}

missing_packages() {
    # a package that dpkg has never heard of makes it exit 1; what it prints is what counts
    packages_of "$@" | sort >"$COPPER_ROOT/build/packages.wanted"
    xargs dpkg-query -W -f '${db:Status-Status} ${Package}\n' <"$COPPER_ROOT/build/packages.wanted" 2>/dev/null |
        awk '$1 == "installed" { print $2 }' | sort -u | comm -23 "$COPPER_ROOT/build/packages.wanted" - || true
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"
}

# twice COMMAND...: a mirror in the middle of its own update answers properly a little later.
twice() {
    "$@" || { echo "failed; once more in 5 seconds" && sleep 5 && "$@"; }
}

add_packages() {
    # an installation that was cut off leaves packages that must be configured before any other
    DEBIAN_FRONTEND=noninteractive dpkg --configure -a && apt install --no-install-recommends "$@"
}

install_packages() {
    local -a missing
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    step "reading the package lists" twice apt update
    step "installing ${#missing[@]} Debian packages" twice add_packages "${missing[@]}"
}

# Debian's own Python first: others on the PATH may lack venv, or vanish with their owner's settings.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 /usr/bin/python3.1[1-9] python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer" "apt-get install python3 python3-venv"
}

# The environment is made anew when the lock, the Python or this folder's path has changed.
install_python() {
    local python venv="$COPPER_ROOT/.venv" wanted editable
    python="$(find_python)"
    wanted="$("$python" -VV) $COPPER_ROOT $(sha256sum <"$COPPER_ROOT/requirements.lock")"
    editable="$(sha256sum <"$COPPER_ROOT/pyproject.toml")"
    if [ "$(cat -- "$venv/copper-lock" 2>/dev/null)" != "$wanted" ]; then
        step "making the Python environment" "$python" -m venv --clear "$venv"
        step "installing the locked libraries" twice "$venv/bin/python" -m pip install \
            --disable-pip-version-check --no-input --only-binary :all: --require-hashes -r "$COPPER_ROOT/requirements.lock"
        printf '%s\n' "$wanted" >"$venv/copper-lock"
    fi
    if [ "$(cat -- "$venv/copper-project" 2>/dev/null)" != "$editable" ]; then
        # setuptools comes from the lock, so nothing unpinned is fetched to build with
        step "installing Copper itself" "$venv/bin/python" -m pip install \
            --disable-pip-version-check --no-input --no-index --no-deps --no-build-isolation -e "$COPPER_ROOT"
        printf '%s\n' "$editable" >"$venv/copper-project"
    fi
}

# The builders are incremental, and print nothing when nothing changed.
build_native() {
    [ ! -x "$COPPER_ROOT/native/build" ] || step "building the QEMU hooks" "$COPPER_ROOT/native/build" "$COPPER_ROOT/build"
    [ ! -x "$COPPER_ROOT/guest/build" ] || step "building the guest agent" "$COPPER_ROOT/guest/build" "$COPPER_ROOT/build/guest"
}

setup() {
    local lock
    check_machine
    mkdir -p -- "$COPPER_ROOT/build"
    exec {lock}>"$COPPER_ROOT/build/setup.lock"
    flock -n "$lock" || { echo "  waiting for another setup in this folder" && flock "$lock"; }
    : >"$COPPER_LOG"
    install_packages "$@"
    install_python
    build_native
    exec {lock}>&- # what runs next must not hold it
}
