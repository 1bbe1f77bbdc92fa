#!/usr/bin/env bash
# Set up the environment, then check everything: style and types (check_style.sh), then the whole test suite.
#
#   bash scripts/run_tests.sh                      all of it
#   bash scripts/run_tests.sh -k runner -x         style, then pytest with these arguments only
#
# Installs openssh-server, rsync, mosquitto, postgresql and chromium from Debian's packages when they are missing and it
# may (the tests of the remote mode and of the service raise real ones), and waits for a package manager that is at
# work; makes .venv and installs requirements.txt when needed (EARLY_PERSISTENCE_VENV names an environment to use as it
# is), and a small language model (130 MB) with the server that runs it. The last lines are pytest's own: the ten slowest tests, what was skipped and why, the count. The exit code is
# that of the first check that fails.
#
# With CI set in the environment it is a failure when one of them is missing; otherwise their tests are skipped.

# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=lib/setup.sh
source "$root/scripts/lib/setup.sh"
# shellcheck source=lib/packages.sh
source "$root/scripts/lib/packages.sh"

main() {
  case ${1:-} in
    -h | --help)
      print_help "${BASH_SOURCE[0]}"
      return
      ;;
  esac
  set_up_environment
  install_test_tools
  install_language_model
  cd "$root"
  bash scripts/check_style.sh
  run_pytest "$@"
}

run_pytest() {
  # the last lines say what was skipped and why, and which tests took longest
  if [ $# -gt 0 ]; then
    "$python" -m pytest -rfEs --durations=10 "$@"
  else
    # a process per core, one thread each: twice the threads of small tensors would only wait for each other
    OMP_NUM_THREADS=1 "$python" -m pytest -rfEs --durations=10 -n auto --maxprocesses 8
  fi
}

main "$@"
