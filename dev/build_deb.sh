#!/bin/sh
# SPDX-License-Identifier: MIT
# Build the .deb by Debian's tools, from the files that git knows; it lands in dist/.
# Needs (apt): build-essential debhelper dh-python libssl-dev python3-all-dev python3-pip
# python3-venv.
set -eu

cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' pooler/__init__.py)
tree=build/deb/pooler-$version
rm -rf build/deb
mkdir -p "$tree" dist
git ls-files -co --exclude-standard | tar cf - -T - | tar xf - -C "$tree"
mv "$tree/packaging/deb/debian" "$tree/debian"
cat >"$tree/debian/changelog" <<END
pooler ($version) unstable; urgency=medium

  * See CHANGELOG.md.

 -- The pooler developers <pooler@localhost>  $(LC_ALL=C date -R)
END
(cd "$tree" && dpkg-buildpackage -us -uc -b)
mv build/deb/*.deb dist/
ls -l dist/*.deb
