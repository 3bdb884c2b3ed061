#!/bin/bash
# `cargo xtask test chroot`: set-up on fresh Debian 12 and 13, each in a chroot with rustup's stable cargo and nothing else.
#
#     debootstrap -> rustup's stable and this source tree in -> setup --no-install -> setup -> setup again -> build
#
# usage: chroot.sh [bookworm|trixie]...     as root, on Debian with debootstrap; many minutes and 4 GB under /var/tmp
#
# Mirror, apt settings, certificates and proxies are this machine's. Each chroot lives in mount and PID namespaces of
# its own: mounts and processes end with it, whatever happens.
set -euo pipefail

readonly LIMIT=3000 # seconds for one distribution
readonly SELF=$(realpath "$0")
readonly SOURCE=$(dirname "$(dirname "$SELF")")

die() { echo "chroot.sh: $*" >&2; exit 1; }

main() {
    [ "$(id -u)" = 0 ] || die "debootstrap and chroot want root"
    command -v debootstrap >/dev/null || die "no debootstrap: apt-get install -y debootstrap"
    [ $# -gt 0 ] || set -- bookworm trixie
    local suite failed=
    for suite; do
        ROOT=$(mktemp -d "/var/tmp/xdp-lb-$suite.XXXXXX")
        # The namespaces are gone by then: nothing of the host is mounted below.
        trap 'rm -rf --one-file-system "$ROOT"' EXIT
        local begun=$SECONDS verdict=ok
        timeout --kill-after=30 "$LIMIT" unshare --mount --pid --fork --kill-child --propagation private \
            bash "$SELF" --inside "$suite" "$ROOT" </dev/null || { verdict=FAILED failed+=" $suite"; }
        rm -rf --one-file-system "$ROOT"
        echo "== $suite: $verdict, $((SECONDS - begun)) s"
    done
    [ -z "$failed" ] || die "failed on$failed"
}

inside() {
    local suite=$1 root=$2
    echo "== $suite: debootstrap"
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 -E '/debian/?$') || die "this machine's apt knows no Debian mirror"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
        { tail -n 20 "$root.log"; rm -f "$root.log"; die "debootstrap failed"; }
    rm -f "$root.log"

    printf 'deb %s %s main\n' "$mirror" "$suite" "$mirror" "$suite-updates" "${mirror%/}-security" "$suite-security" >"$root/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(http|https|Check-|Retries)' >"$root/etc/apt/apt.conf.d/99host" || true
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    # Beside the chroot's own: installing ca-certificates writes that one anew.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/host.crt"
    # Lists as on a new machine: none. Services: none may start, a chroot shares the host's network.
    rm -rf "$root"/var/lib/apt/lists/*
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"

    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"

    echo "== $suite: rustup's stable, and nothing of the host's cargo but its settings"
    local cargo=${CARGO_HOME:-$HOME/.cargo} rustup=${RUSTUP_HOME:-$HOME/.rustup} stable tool
    stable=$(find "$rustup/toolchains" -maxdepth 1 -name 'stable-*' | head -n 1)
    mkdir -p "$root/root/.cargo/bin" "$root/root/.rustup/toolchains"
    cp -a "$(realpath "$stable")" "$root/root/.rustup/toolchains/$(basename "$stable")"
    rm -rf "$root"/root/.rustup/toolchains/*/share "$root"/root/.rustup/toolchains/*/lib/rustlib/src
    [ ! -f "$cargo/config.toml" ] || cp "$cargo/config.toml" "$root/root/.cargo/"
    cp -L "$cargo/bin/rustup" "$root/root/.cargo/bin/"
    for tool in cargo rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver; do
        ln -s rustup "$root/root/.cargo/bin/$tool"
    done
    in_chroot "$root" / rustup default stable >/dev/null 2>&1 || die "rustup does not run in the chroot"

    mkdir "$root/src"
    (cd "$SOURCE" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf -) | tar -xf - -C "$root/src"

    step "$suite" "$root" cargo xtask setup --no-install && die "a fresh machine lacks nothing?"
    grep -q 'missing: cc' "$root/last" || die "--no-install did not name cc"
    [ ! -e "$root/usr/bin/cc" ] || die "--no-install installed cc"

    step "$suite" "$root" cargo xtask setup || die "setup failed"
    grep -q 'everything is here now' "$root/last" || die "setup left something missing"

    step "$suite" "$root" cargo xtask setup || die "the second setup failed"
    ! grep -q '^  \$ ' "$root/last" || die "the second setup ran commands"
    step "$suite" "$root" cargo xtask setup --no-install || die "--no-install finds something missing"

    step "$suite" "$root" cargo xtask build || die "build failed"
}

# Runs a command in the chroot's copy of the sources; shows its output and keeps it in $root/last.
step() {
    local suite=$1 root=$2 begun=$SECONDS status=0
    shift 2
    echo "== $suite: $*"
    in_chroot "$root" /src "$@" 2>&1 | tee "$root/last" || status=$?
    echo "== $suite: $*: exit code $status, $((SECONDS - begun)) s"
    return "$status"
}

in_chroot() {
    local root=$1 folder=$2 pass=() name
    shift 2
    while read -r name; do
        pass+=("$name=${!name}")
    done < <(compgen -e | grep -E '^(.*_(proxy|PROXY)|CARGO_(NET|REGISTR|SOURCE).*|RUSTUP_(DIST_SERVER|UPDATE_ROOT))$')
    env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "${pass[@]}" \
        SSL_CERT_FILE=/etc/ssl/host.crt CURL_CA_BUNDLE=/etc/ssl/host.crt CARGO_HTTP_CAINFO=/etc/ssl/host.crt \
        PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        chroot "$root" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
}

# With the exits, editing this file while it runs changes nothing: bash has read all of this.
if [ "${1-}" = --inside ]; then
    shift
    inside "$@"
    exit
else
    main "$@"
    exit
fi
