#!/bin/sh
# find_secrets.sh HOTKEY_FILE: prints where others than its owner can read the hotkey's secrets, one place per line: command
# lines, units, the journal, files that everybody may read, and whatever the play wrote outside of the wallets.
set -eu

secrets=$(mktemp)
trap 'rm -f "$secrets"' EXIT
python3 - "$1" >"$secrets" <<'end'
import json, sys
hotkey = json.load(open(sys.argv[1]))
secrets = [hotkey.get(name) for name in ("secretSeed", "secretPhrase", "privateKey")]
print(*(one.removeprefix("0x") for one in secrets if one), sep="\n")
end
grep --quiet --ignore-case --fixed-strings --file="$secrets" "$1" || { echo "nothing to look for in $1" && exit 1; }

look() { if grep --quiet --ignore-case --fixed-strings --file="$secrets"; then echo "$1"; fi; }
ps -ewwo args | look 'a command line'
systemctl cat 'omron-*' | look 'a unit'
journalctl --no-pager --output cat | look 'the journal'
{
    find / -xdev -type f -perm -o=r -print0
    find /etc /opt/omron-miner /var/log /dev/shm -type f -print0
} | xargs -0 grep --files-with-matches --ignore-case --fixed-strings --file="$secrets" || [ $? = 123 ]
