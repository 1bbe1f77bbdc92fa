#!/usr/bin/env bash
# Check the style of everything: Python's with ruff, its types with mypy, the shell scripts' with shellcheck and shfmt.
#
#   bash scripts/check_style.sh                    every check; the first that fails ends it
#   bash scripts/check_style.sh mypy shfmt         these only: ruff_check, ruff_format, mypy, shellcheck, shfmt
#
# Nothing is changed. `ruff format` and `shfmt -i 2 -ci -w` mend what their checks find. run_tests.sh begins with this,
# and `pre-commit run --all-files` does the same (pre-commit install, once: then before every commit).
# The environment is .venv, or EARLY_PERSISTENCE_VENV; bash scripts/run_tests.sh makes it.

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
  use_environment
  cd "$root"
  local check shell_scripts=(scripts/*.sh scripts/lib/*.sh .ci/run)
  [ $# -gt 0 ] || set -- ruff_check ruff_format mypy shellcheck shfmt
  for check in "$@"; do
    case $check in
      ruff_check) "$python" -m ruff check ;;
      ruff_format) "$python" -m ruff format --check ;;
      mypy) "$python" -m mypy ;;
      shellcheck) "$(dirname "$python")/shellcheck" "${shell_scripts[@]}" ;;
      shfmt) "$(dirname "$python")/shfmt" -i 2 -ci -d "${shell_scripts[@]}" ;;
      *) fail "'$check' is unknown; give ruff_check, ruff_format, mypy, shellcheck or shfmt" ;;
    esac
  done
}

main "$@"
