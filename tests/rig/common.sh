# What the rigs share. To be sourced; sets -euo pipefail, goes to the root of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Everything that is downloaded or built for the rigs; nothing outside it is touched.
RIG=${SAMPLER_RIG:-$PWD/target/rig}
mkdir -p "$RIG"

say() { echo "rig: $*" >&2; }
die() { say "$*"; exit 1; }

passed=0 failed=0
# check WHAT COMMAND...: runs it, and counts whether it succeeds.
check() {
    local what=$1
    shift
    if "$@" >"$RIG/check.log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        tail -n 40 "$RIG/check.log"
    fi
}
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}

# need PROGRAM PACKAGE: installs the package if the program (or the file, where it is a path) is missing and we may.
need() {
    if [ -e "$1" ] || command -v "$1" >/dev/null; then
        return
    fi
    say "apt-get install $2"
    [ "$(id -u)" = 0 ] || die "$1 is missing: apt-get install -y --no-install-recommends $2"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2" </dev/null >&2
}

# An apt of our own: the suites of this machine's mirror that have what the machine's release has not. Nothing of it is
# installed; packages are downloaded and unpacked below $RIG. Those of another architecture where DEB_ARCH names one.
private_apt() {
    local state=$RIG/apt${DEB_ARCH:+-$DEB_ARCH} mirror
    if [ ! -e "$state/ready" ]; then
        mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
            grep -oE '^(URIs:|deb( \[[^]]*\])?) +[^ ]+' | grep -oE '[^ ]+/debian/*$' | sed -n 1p) || true
        [ -n "$mirror" ] || die "no Debian mirror in /etc/apt"
        mkdir -p "$state"/{lists/partial,cache/archives/partial}
        : >"$state/status"
        local suite
        for suite in bullseye bookworm trixie trixie-backports; do
            echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
        done >"$state/sources.list"
    fi
    local tool=$1
    shift
    "$tool" ${DEB_ARCH:+-o "APT::Architecture=$DEB_ARCH" -o "APT::Architectures=$DEB_ARCH"} \
        -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}
private_apt_ready() {
    local ready=$RIG/apt${DEB_ARCH:+-$DEB_ARCH}/ready
    [ -e "$ready" ] && return
    say "reading the lists of packages"
    private_apt apt-get update -qq >&2
    touch "$ready"
}
# unpacked FOLDER PACKAGE[=VERSION]: the folder below $RIG into which the package is unpacked.
unpacked() {
    local folder=$RIG/$1
    if [ ! -e "$folder/.unpacked" ]; then
        private_apt_ready
        rm -rf "$folder"
        mkdir -p "$folder"
        (cd "$folder" && private_apt apt-get download -qq "$2" >&2 && dpkg-deb -x ./*.deb . && rm ./*.deb) || return 1
        touch "$folder/.unpacked"
    fi
    echo "$folder"
}
