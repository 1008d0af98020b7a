#!/bin/sh
# SPDX-License-Identifier: MIT
# Put what is no Python where a system looks for it: the command, its manual page, the
# units, the user, logrotate and a first configuration, which is never overwritten.
#
# In: DESTDIR, prefix, sysconfdir, python (the interpreter of the command) from the
#     environment. The package itself lies in $prefix/lib/pooler.
set -eu

here=$(dirname "$0")
root=${DESTDIR-}
bin=$prefix/bin
unit_dir=$root$prefix/lib/systemd/system
configuration=$root$sysconfdir/pooler

man_dir=$root$prefix/share/man/man1

install -d "$root$bin" "$man_dir" "$unit_dir" "$root$prefix/lib/sysusers.d" \
    "$root$sysconfdir/logrotate.d" "$configuration"

cat >"$root$bin/pooler" <<END
#!$python -I
# SPDX-License-Identifier: MIT
import sys

sys.path.insert(0, "$prefix/lib/pooler")
from pooler.__main__ import main

main()
END
chmod 755 "$root$bin/pooler"

# Type=notify-reload came with systemd 253.
version=${SYSTEMD_VERSION-$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')}
older=
[ "${version:-253}" -ge 253 ] || older='s|^Type=notify-reload|Type=notify\nExecReload=/bin/kill -HUP $MAINPID|'
sed -e "s|^ExecStart=.*|ExecStart=$bin/pooler $sysconfdir/pooler/pooler.ini|" \
    -e "$older" "$here/systemd/pooler.service" >"$unit_dir/pooler.service"
install -m 644 "$here/man/pooler.1" "$man_dir/pooler.1"
install -m 644 "$here/systemd/pooler.socket" "$unit_dir/pooler.socket"
install -m 644 "$here/systemd/pooler.sysusers" "$root$prefix/lib/sysusers.d/pooler.conf"
install -m 644 "$here/logrotate/pooler" "$root$sysconfdir/logrotate.d/pooler"

[ -e "$configuration/pooler.ini" ] ||
    sed "s|= /etc/pooler/|= $sysconfdir/pooler/|" "$here/pooler.ini" >"$configuration/pooler.ini"
[ -e "$configuration/userlist.txt" ] || {
    printf '%s\n' '; "user" "password, md5 hash or SCRAM verifier"' >"$configuration/userlist.txt"
    chmod 640 "$configuration/userlist.txt"
}
