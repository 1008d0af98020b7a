#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Unpack the PgBouncer of a newer Debian release into a folder, beside the one that
# is installed, with every library it needs. The system is not touched: apt works in
# a private root with an empty package database, and dpkg-deb only unpacks.
#
#   benchmarks/fetch_pgbouncer.sh [FOLDER] [RELEASE] [PACKAGE]
#
# FOLDER/PACKAGE is then a wrapper that runs the program with its own loader and C
# library, because the host's are older than the ones it was linked against.

set -euo pipefail

folder=${1:-/opt/pgbouncer-next}
release=${2:-trixie}
package=${3:-pgbouncer}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

if [ -z "$folder" ] || [ "${folder#/}" = "$folder" ]; then
    echo "the folder must be an absolute path, not '$folder'" >&2
    exit 2
fi

# The mirror is whatever this machine already installs Debian from.
mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Identifier: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p)
if [ -z "$mirror" ]; then
    echo "apt knows no Debian mirror; run apt-get update first" >&2
    exit 1
fi

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
mkdir -p "$private"/{lists/partial,cache/archives/partial,parts,debs}
: >"$private/status"
echo "deb [signed-by=$keyring] $mirror $release main" >"$private/sources.list"

options=(
    -o "Dir::Etc::sourcelist=$private/sources.list"
    -o "Dir::Etc::sourceparts=$private/parts"
    -o "Dir::State=$private"
    -o "Dir::State::lists=$private/lists"
    -o "Dir::State::status=$private/status"
    -o "Dir::Cache=$private/cache"
    # The private root is readable by its owner only, so apt's own user is no help.
    -o "APT::Sandbox::User=$(id -un)"
)

apt-get "${options[@]}" -q update
if ! apt-cache "${options[@]}" show "$package" >"$private/shown" 2>/dev/null ||
    [ ! -s "$private/shown" ]; then
    echo "$release has no package '$package'" >&2
    exit 1
fi

# Libraries only: what a maintainer script or a cluster manager needs is not run here.
wanted=("$package")
for ((next = 0; next < ${#wanted[@]}; next++)); do
    while read -r name; do
        case " ${wanted[*]} " in
        *" $name "*) ;;
        *) wanted+=("$name") ;;
        esac
    done < <(apt-cache "${options[@]}" depends --important "${wanted[next]}" |
        sed -nE 's/^ *(PreDepends|Depends): ((lib|zlib)[^ <>]*)$/\2/p')
done

(cd "$private/debs" && apt-get "${options[@]}" -q download "${wanted[@]}")

mkdir -p "$folder"
rm -rf "$folder/root"
for deb in "$private"/debs/*.deb; do
    dpkg-deb --extract "$deb" "$folder/root"
done

loader=$(find "$folder/root" -name 'ld-linux*.so.*' -print | sed -n 1p)
program=$(find "$folder/root" -path "*bin/$package" -type f -print | sed -n 1p)
libraries=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u |
    grep -E '/lib(/[^/]+-linux-gnu[^/]*)?$' | paste -sd:)
if [ -z "$loader" ] || [ -z "$program" ]; then
    echo "the packages hold no loader or no program named '$package'" >&2
    exit 1
fi

# exec keeps the process id, so the wrapper is invisible to signals and accounting.
cat >"$folder/$package" <<WRAPPER
#!/bin/sh
exec '$loader' --library-path '$libraries' '$program' "\$@"
WRAPPER
chmod 755 "$folder/$package"
chmod -R a+rX "$folder"

"$folder/$package" --version
