#!/bin/sh
# The linker of host programs in this workspace (.cargo/config.toml): cc, and where there is none, how it comes.
#
# xtask does the set-up, but xtask is a Rust program and Rust cannot link without a C compiler. So the very
# first thing that a machine may lack has to be brought from here. Only `cargo xtask` installs; a plain
# `cargo build` is told what to do.
set -eu

command -v cc >/dev/null 2>&1 && exec cc "$@"

# rustc hides what a linker prints unless it fails, so people are told through cargo's own stderr.
cargo_pid= wish=
pid=$PPID
for _ in 1 2 3 4; do
    words=$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) || break
    # Only cargo itself counts: rustc is told `--crate-name xtask`. The alias shows unexpanded in its arguments.
    case ${words%% *}/$words in
        cargo/*" xtask "* | */cargo/*" xtask "*)
            cargo_pid=$pid wish=install
            case $words in *" --no-install "*) wish=list ;; esac
            break
            ;;
    esac
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || break
    [ "${pid:-0}" -gt 1 ] || break
done

sudo=
[ "$(id -u)" = 0 ] || sudo='sudo '
install="${sudo}env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev"

if [ "$wish" != install ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "missing: cc (links host programs and build scripts; cargo needs it before xtask can run)" >&2
    echo "    $install" >&2
    echo "what else is missing can be listed when xtask runs" >&2
    exit 1
fi

if [ -w "/proc/$cargo_pid/fd/2" ]; then out=/proc/$cargo_pid/fd/2; else out=/dev/stderr; fi

# cargo links several programs at once: the first installs, the others wait. The lock dies with its holder.
exec 9<"$0"
flock -w 900 9
if ! command -v cc >/dev/null 2>&1; then
    {
        echo "cc: links host programs and build scripts; cargo needs it before xtask can run"
        ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || { echo "  \$ ${sudo}apt-get update"; timeout 600 $sudo apt-get update; }
        echo "  \$ $install"
        # Old lists name files that the archive no longer has: once more with new ones.
        timeout 900 $install || { timeout 600 $sudo apt-get update && timeout 900 $install; }
    } >>"$out" 2>&1 </dev/null 9<&-
fi
exec 9<&-
exec cc "$@"
