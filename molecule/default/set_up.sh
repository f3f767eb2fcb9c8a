#!/bin/sh
# Makes the machine swap to a partition and a file that fstab names and to a file that a unit names, in addition to zram, which the
# image brings; closes every port but SSH's; sets a kernel parameter otherwise than the play will.
set -eu

mkswap --quiet /dev/vdb1
for file in /swap-in-fstab /swap-in-unit; do
    fallocate --length 128M "$file"
    chmod 0600 "$file"
    mkswap --quiet "$file"
done
cat >/etc/fstab <<end
UUID=$(blkid --output value --match-tag UUID /dev/vdb1) none swap sw 0 0
/swap-in-fstab none swap sw,pri=5 0 0
end
cat >/etc/systemd/system/swap\\x2din\\x2dunit.swap <<end
[Swap]
What=/swap-in-unit
[Install]
WantedBy=swap.target
end
systemctl daemon-reload
systemctl --quiet enable 'swap\x2din\x2dunit.swap'
systemctl restart swap.target 'swap\x2din\x2dunit.swap'

cat >/etc/nftables.conf <<end
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        tcp dport 22 accept
    }
}
end
systemctl --quiet enable --now nftables.service

echo 'vm.overcommit_memory = 1' >/etc/sysctl.d/50-owner.conf
sysctl --quiet --load /etc/sysctl.d/50-owner.conf
touch /var/lib/set-up
