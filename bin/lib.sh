# Shared by the commands in this folder: what the control node needs. Sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
fail() {
  printf 'error: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf '  try: %s\n' "$2" >&2
  exit 1
}
# Roles and plugins are found through symlinks, which git checks out as text files if core.symlinks is false.
[ -d playbooks/roles ] || fail "the links in playbooks/ and roles/ are text files" \
  "git config core.symlinks true && git checkout-index --force --all"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }

# again_as_root COMMAND ARGUMENT… : runs this command again as root unless it is. .venv is built before, so it stays yours.
again_as_root() { [ "$(id -u)" = 0 ] || exec sudo --preserve-env --set-home -- "$@"; }

# need_packages NAME… : installs the Debian packages that are missing.
need_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  [ "${#missing[@]}" = 0 ] && return
  command -v apt-get >/dev/null || fail "this is not a Debian or Ubuntu system" "install by hand: ${missing[*]}"
  say "Installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_venv: builds .venv from requirements.lock unless it is there already, unchanged.
need_venv() {
  local wanted python
  python=$(command -v python3) || fail "python3 is missing" "apt-get install python3"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "the control node needs Python 3.11 or newer; this is $("$python" -V)" "use Debian 12, Ubuntu 24.04 or newer"
  wanted=$(cat requirements.lock files/miner/bootstrap.lock files/miner/pyproject.toml | sha256sum)
  [ "$(cat .venv/.complete 2>/dev/null)" = "$wanted" ] && return
  say "Building .venv from requirements.lock"
  "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r files/miner/bootstrap.lock
  .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable files/miner
  printf '%s\n' "$wanted" >.venv/.complete
}

need_throwaway_packages() { need_packages mmdebstrap systemd-container debian-archive-keyring openssh-client python3-venv; }
need_vm_packages() { need_packages qemu-system-x86 qemu-utils acpica-tools e2fsprogs fdisk; }

# need_promtool: .cache/promtool, which checks Prometheus' rules. Unpacked alone: Debian's package starts a server.
need_promtool() {
  [ -x .cache/promtool ] && return
  local folder
  folder=$(mktemp -d) && mkdir -p .cache
  say "Fetching promtool"
  (
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
    apt-get download -qq -o APT::Sandbox::User=root prometheus # its own user may not write here
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
    mv usr/bin/promtool "$OLDPWD/.cache/promtool"
  )
}
