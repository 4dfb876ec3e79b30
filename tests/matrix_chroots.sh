#!/bin/sh
# Rows of tests/matrix.sh in a Debian of their own, with that release's Python, compiler and libraries:
#
#   tests/matrix_chroots.sh forky 3.14:newest
#   tests/matrix_chroots.sh trixie --quick 3.13:newest
#
# Needs root and debootstrap. The system is made once, in a folder under $ADDERLAB_CHROOTS, from
# $MATRIX_MIRROR; the environments lie in $ADDERLAB_MATRIX, as matrix.sh says. The checkout, the folder
# ../shared, certificates and pip's cache are mounted in a namespace that ends with the command.
set -eu
cd "$(dirname "$0")/.."
suite=$1
shift
version=$(printf '%s\n' "$@" | sed -n 's/:.*//p' | head -1)
root=${ADDERLAB_CHROOTS:-/var/tmp/adderlab-chroots}/$suite-$version
mirror=${MATRIX_MIRROR:-http://deb.debian.org/debian}
: "${ADDERLAB_MATRIX:=$(mktemp -d)}"
mkdir -p "$ADDERLAB_MATRIX" "$HOME/.cache/pip" "$(dirname "$root")"

if [ ! -e "$root/made" ]; then
    # The rules of sid serve for a release that this machine's debootstrap does not know yet.
    debootstrap --variant=minbase \
        --include="ca-certificates,g++,git,bubblewrap,procps,python$version,python$version-venv" \
        "$suite" "$root" "$mirror" /usr/share/debootstrap/scripts/sid
    touch "$root/made"
fi

here=$PWD
export ADDERLAB_MATRIX root here
# Pivoted to, not changed to: bubblewrap needs a root that is mounted.
exec unshare --mount --propagation private sh -eu -c '
mount --bind "$root" "$root"
shared=$(dirname "$here")/shared
for each in /proc /dev /sys /etc/ssl/certs "$here" "$ADDERLAB_MATRIX" "$HOME/.cache/pip" "$shared"; do
    [ -e "$each" ] || continue
    mkdir -p "$root$each"
    mount --rbind "$each" "$root$each"
done
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cd "$root"
pivot_root . mnt
umount -l /mnt
cd "$here"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 exec tests/matrix.sh "$@"' - "$@"
