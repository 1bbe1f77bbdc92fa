#!/usr/bin/env bash
# Set up the environment, then check everything: style, shell scripts, the whole test suite.
#
#   bash scripts/run_tests.sh                      all of it
#   bash scripts/run_tests.sh -k runner -x         style, then pytest with these arguments only
#
# Installs openssh-server and rsync from Debian's packages when they are missing and it may (the tests of the remote
# mode need them), makes .venv and installs requirements.txt when needed (EARLY_PERSISTENCE_VENV names an environment to use as it
# is). The last line is pytest's own; the exit code is that of the first check that fails.

# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=lib/setup.sh
source "$root/scripts/lib/setup.sh"

main() {
  case ${1:-} in
    -h | --help)
      print_help "${BASH_SOURCE[0]}"
      return
      ;;
  esac
  set_up_environment
  install_remote_tools
  cd "$root"
  check_style
  check_shell_scripts
  run_pytest "$@"
}

install_remote_tools() { # the tests of the remote mode raise a real SSH server
  local missing=() as_root=()
  command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] || missing+=(openssh-server openssh-client)
  command -v rsync >/dev/null || missing+=(rsync)
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
  say "Installing ${missing[*]} for the tests of the remote mode"
  if command -v apt-get >/dev/null &&
    "${as_root[@]}" apt-get update -qq >/dev/null 2>&1 &&
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
    return 0
  fi
  say "They could not be installed, so those tests are skipped; install them with: apt-get install ${missing[*]}"
}

check_style() {
  "$python" -m ruff check
}

check_shell_scripts() {
  local tools scripts=(scripts/*.sh scripts/lib/*.sh .ci/run)
  tools=$(dirname "$python")
  "$tools/shellcheck" "${scripts[@]}"
  "$tools/shfmt" -i 2 -ci -d "${scripts[@]}"
}

run_pytest() {
  if [ $# -gt 0 ]; then
    "$python" -m pytest "$@"
  else
    # a process per core, one thread each: twice the threads of small tensors would only wait for each other
    OMP_NUM_THREADS=1 "$python" -m pytest -n auto --maxprocesses 8
  fi
}

main "$@"
