#!/usr/bin/env bash
# Capture test-first evidence: that the tests failed before the code was there, and passed after.
#
#   bash scripts/tdd_evaluation_capture.sh red        the tests exist, the code does not: refuses if the tests pass
#   bash scripts/tdd_evaluation_capture.sh green      the code is done: refuses if a test fails
#   bash scripts/tdd_evaluation_capture.sh refactor   after the clean-up: refuses if a test fails
#   bash scripts/tdd_evaluation_capture.sh verify     do red and green belong together? One line for each problem
#   --suite NAME        evaluation (default): the four evaluation scripts; remote: the faults of the remote mode
#   --output_dir DIR    where the evidence goes (default: artifacts/); verify looks there first, then in artifacts/
#   --phase NAME        verify: green (default) or refactor, to be held against red
#
# Red and green belong together if both list the same tests of the same test file (tests_sha256), which in red ran
# and failed and in green all passed on a clean work tree, red's commit is before green's, and green's is HEAD or
# before it. A shallow clone needs git fetch --unshallow first.
# Exit code 0: done, or they do; 1: verify found a problem; 2: a missing file, a wrong word, or no such evidence.
#
# Reads   the suite's test file; verify: both evidence files and the history
# Writes  DIR/tdd_<suite>_<phase>.txt: commit, tree state, hash of the tests, time, versions,
#         pytest's exit code and output. PYTHON names the interpreter (default: .venv/bin/python).

# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

tests='' suite=evaluation output_dir=$root/artifacts against=green
python=${PYTHON:-${EARLY_PERSISTENCE_VENV:-$root/.venv}/bin/python}

write_evidence() { # phase, exit code, file with pytest's output
  local tree=clean
  [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] || tree=modified
  printf 'phase: %s\n' "$1"
  printf 'commit: %s\n' "$(git -C "$root" rev-parse HEAD)"
  printf 'tree: %s\n' "$tree"
  printf 'tests: %s\n' "$tests"
  printf 'tests_sha256: %s\n' "$(sha256sum "$root/$tests" | cut -d' ' -f1)"
  printf 'time: %s\n' "$(date -u '+%Y-%m-%d %H:%M:%S UTC')"
  printf 'versions: %s\n' "$(
    "$python" - <<'PYTHON'
import platform
from importlib.metadata import version

print(f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "numpy", "pytest")), sep=", ")
PYTHON
  )"
  printf 'pytest_exit_code: %s\n\n' "$2"
  # the evidence is committed: no folder of this machine belongs in it
  sed -e "s#$python#python#g" -e "s#$root/##g" -e "s#$root#.#g" -e 's#/tmp/[^ ]*pytest-of-[^/ ]*/#TMP/#g' "$3"
}

choose_tests() {
  case $suite in
    evaluation)
      tests=experiments/trajectory_video_understanding/early_persistence_detection/evaluation/tests/test_evaluation_scripts.py
      ;;
    remote) tests=scripts/tests/test_remote_faults.py ;;
    *) fail "suite '$suite' is unknown; give evaluation or remote" ;;
  esac
}

main() {
  local phase=''
  while [ $# -gt 0 ]; do
    case $1 in
      red | green | refactor | verify) phase=$1 ;;
      -h | --help)
        print_help "${BASH_SOURCE[0]}"
        exit 0
        ;;
      --suite | --output_dir)
        [ -n "${2:-}" ] || fail "$1 needs a name"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --phase)
        [[ ${2:-} =~ ^(green|refactor)$ ]] || fail "--phase is green or refactor, not '${2:-}'"
        against=$2
        shift
        ;;
      *) fail "phase '$1' is unknown; give red, green, refactor or verify" ;;
    esac
    shift
  done
  [ -n "$phase" ] || fail "phase '' is unknown; give red, green, refactor or verify"
  choose_tests
  [ -x "$python" ] || fail "no interpreter at $python; run bash scripts/run_tests.sh first, or set PYTHON"
  if [ "$phase" = verify ]; then
    exec "$python" "$root/scripts/verify_evidence.py" --red "$(evidence_of red)" --green "$(evidence_of "$against")"
  fi
  [ -f "$root/$tests" ] || fail "$tests does not exist; write the tests first"
  capture "$phase"
}

evidence_of() { # phase: the file in --output_dir, else the committed one
  local name=tdd_${suite}_$1.txt
  if [ -f "$output_dir/$name" ]; then
    printf '%s\n' "$output_dir/$name"
  else
    printf '%s\n' "$root/artifacts/$name"
  fi
}

capture() { # phase
  local phase=$1 output code=0
  output=$(mktemp)
  # shellcheck disable=SC2064  # the name is fixed now
  trap "rm -f '$output'" EXIT
  (cd "$root" && "$python" -m pytest "$tests" -vv --tb=short -p no:cacheprovider) >"$output" 2>&1 || code=$?
  tail -n 3 "$output"

  # pytest: 0 all passed, 1 some failed; anything else means that the tests did not run
  case $code in
    0 | 1) ;;
    *) fail "pytest ended with exit code $code: the tests did not run, so this is no evidence" ;;
  esac
  if [ "$phase" = red ] && [ "$code" -eq 0 ]; then
    fail "the tests pass, so there is nothing red to capture"
  fi
  if [ "$phase" != red ] && [ "$code" -ne 0 ]; then
    fail "the tests fail, so they are not $phase; no evidence was written"
  fi
  mkdir -p "$output_dir"
  local evidence=$output_dir/tdd_${suite}_$phase.txt
  write_evidence "$phase" "$code" "$output" >"$evidence.tmp"
  mv "$evidence.tmp" "$evidence"
  say "wrote $(basename "$evidence")"
}

main "$@"
