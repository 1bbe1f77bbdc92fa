#!/usr/bin/env bash
# Set up the environment, then check everything: style, shell scripts, the whole test suite.
#
#   bash scripts/run_tests.sh                      all of it
#   bash scripts/run_tests.sh -k runner -x         style, then pytest with these arguments only
#
# Makes .venv and installs requirements.txt when needed (EARLY_PERSISTENCE_VENV names an environment to use as it
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
  cd "$root"
  check_style
  check_shell_scripts
  run_pytest "$@"
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
    OMP_NUM_THREADS=1 "$python" -m pytest -n auto --maxprocesses 8 --dist loadfile
  fi
}

main "$@"
