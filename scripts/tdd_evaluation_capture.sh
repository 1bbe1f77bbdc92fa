#!/usr/bin/env bash
# Capture test-first evidence for the four evaluation scripts.
#
#   bash scripts/tdd_evaluation_capture.sh red        the tests exist, the scripts do not: refuses if the tests pass
#   bash scripts/tdd_evaluation_capture.sh green      the scripts are done: refuses if a test fails
#   bash scripts/tdd_evaluation_capture.sh refactor   after the clean-up: refuses if a test fails
#
# Reads   experiments/trajectory_video_understanding/early_persistence_detection/evaluation/tests/
# Writes  artifacts/tdd_evaluation_<phase>.txt: commit, tree state, hash of the tests, time, versions,
#         pytest's exit code and output. PYTHON names the interpreter (default: .venv/bin/python).

# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

tests=experiments/trajectory_video_understanding/early_persistence_detection/evaluation/tests/test_evaluation_scripts.py
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

main() {
  local phase=${1:-}
  case $phase in
    red | green | refactor) ;;
    -h | --help)
      print_help "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) fail "phase '$phase' is unknown; give red, green or refactor" ;;
  esac
  [ -x "$python" ] || fail "no interpreter at $python; run bash scripts/run_tests.sh first, or set PYTHON"
  [ -f "$root/$tests" ] || fail "$tests does not exist; write the tests first"

  local output code=0
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
  mkdir -p "$root/artifacts"
  local evidence=$root/artifacts/tdd_evaluation_$phase.txt
  write_evidence "$phase" "$code" "$output" >"$evidence.tmp"
  mv "$evidence.tmp" "$evidence"
  printf 'wrote artifacts/tdd_evaluation_%s.txt\n' "$phase"
}

main "$@"
