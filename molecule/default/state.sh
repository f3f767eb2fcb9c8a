#!/bin/sh
# Prints what the play changes of a host and gives back, a line each.
set -eu

awk 'NR > 1 { print "swap", $1 }' /proc/swaps | sort
options=$(findmnt --noheadings --first-only --output OPTIONS --mountpoint /dev/shm)
# In MiB: half of the memory is a page more after a remount than after a boot.
# The option for the size shows once somebody has set one, whatever it is; the size itself is what counts.
echo "shm $(($(stat --file-system --format '%b * %S' /dev/shm) / 1048576)) MiB $(echo "$options" | sed 's/,size=[^,]*//')"
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    [ ! -e "$policy" ] || echo "cpufreq $(cat "$policy/scaling_driver" "$policy/scaling_governor" | tr '\n' ' ' | sed 's/ $//')"
done
echo "overcommit $(cat /proc/sys/vm/overcommit_memory)"
hugepages=/sys/kernel/mm/transparent_hugepage/enabled
[ ! -e "$hugepages" ] || echo "hugepages $(sed 's/.*\[\(.*\)\].*/\1/' "$hugepages")"
# Without counters, of which this ruleset has none
! command -v nft >/dev/null || nft list ruleset | sed -n 's/^[[:space:]]*\(.*dport.*\)/firewall \1/p'
for unit in systemd-timesyncd nftables; do
    echo "$unit $(systemctl is-enabled "$unit" 2>/dev/null) $(systemctl is-active "$unit")"
done
