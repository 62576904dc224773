#!/bin/sh
# Installs the Debian packages of the named groups that are missing: build, test, full, bench. "a|b": b is a's newer name.
# A second run does nothing and says nothing. Exit status 1 if some are missing and cannot be had.
set -eu

keyring=debian-archive-keyring # the guests' kernels come from there
! grep -q '^ID=debian' /etc/os-release 2>/dev/null || keyring=

packages_of() {
    case $1 in
    build) echo gcc libc6-dev linux-libc-dev libzydis-dev python3-dev python3-venv ca-certificates 'libfuse2|libfuse2t64' $keyring ;;
    test) echo qemu-system-x86 acpica-tools e2fsprogs lz4 ovmf grub-common grub-pc-bin xorriso mtools strace libvirt-clients python3-libvirt musl-tools ;;
    full) echo clang debootstrap gcc-multilib gdb golang-go libclang-rt-dev qemu-utils rustc virtinst ;;
    bench) echo debootstrap ;;
    *) echo "tools/packages.sh: no group '$1' (build, test, full, bench)" >&2 && exit 2 ;;
    esac
}

wanted=
for group in "$@"; do wanted="$wanted $(packages_of "$group")"; done

if ! command -v dpkg-query >/dev/null; then
    echo "kvmish: not a Debian system; these packages' counterparts are needed:$wanted" >&2
    exit 0
fi

missing=
for package in $wanted; do
    # shellcheck disable=SC2046 # its names
    case " $(dpkg-query -W -f='${db:Status-Status} ' $(echo "$package" | tr '|' ' ') 2>/dev/null || true)" in
    *" installed "*) ;;
    *) missing="$missing ${package%%|*}" ;;
    esac
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    as_root=sudo
    [ -t 0 ] || as_root='sudo -n' # no terminal: a question for a password would hang
    if ! command -v sudo >/dev/null || ! $as_root true 2>/dev/null; then
        echo "kvmish: missing packages; run as root: apt-get install -y$missing" >&2
        exit 1
    fi
fi

echo "kvmish: installing$missing"
install() {
    # shellcheck disable=SC2086 # lists of words on purpose
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $missing >/dev/null
}
if ! install 2>/dev/null; then
    $as_root apt-get update -qq
    if ! install; then
        echo "kvmish: could not install:$missing" >&2
        exit 1
    fi
fi
