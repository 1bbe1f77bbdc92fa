# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# The Python environment: found, made, filled, checked. Sets `python` to its interpreter. Needs common.sh.
#
# EARLY_PERSISTENCE_VENV names an environment that you manage yourself: it is used as it is, nothing is installed.

python=''
requirements_cost='requirements.txt is installed into it (7 to 8 GB with torch the first time)'

set_up_environment() {
  if [ -n "${EARLY_PERSISTENCE_VENV:-}" ]; then
    use_own_environment
    return
  fi
  local venv=$root/.venv
  python=$venv/bin/python
  "$python" -m pip --version >/dev/null 2>&1 || make_environment "$venv"
  local wanted
  wanted=$(requirements_hash)
  if [ "$(cat "$venv/requirements.sha256" 2>/dev/null)" != "$wanted" ]; then
    install_requirements "$venv"
    use_headless_opencv_where_needed "$venv"
    printf '%s\n' "$wanted" >"$venv/requirements.sha256"
  fi
}

use_own_environment() { # it may have been made for another copy of this repository: this copy's code is what runs
  python=$EARLY_PERSISTENCE_VENV/bin/python
  [ -x "$python" ] || fail "EARLY_PERSISTENCE_VENV is $EARLY_PERSISTENCE_VENV, which has no bin/python; unset it or mend it"
  use_packages
}

use_environment() { # the environment as it is; for what must not install anything
  if [ -n "${EARLY_PERSISTENCE_VENV:-}" ]; then
    use_own_environment
  else
    python=$root/.venv/bin/python
    [ -x "$python" ] || fail 'the environment .venv was not made yet; a run makes it'
  fi
}

find_python() { # prints the interpreter to make the environment with
  local candidate version without_venv=''
  for candidate in python3.13 python3.12 python3.11 python3; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
    [ -n "$without_venv" ] || without_venv=$candidate
  done
  if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    fail "$without_venv has no venv module; install it with: apt-get install python$version-venv"
  fi
  fail "no Python 3.11 or newer (looked for python3.13, python3.12, python3.11, python3);" \
    "install one, on Debian 12 or newer with: apt-get install python3 python3-venv"
}

use_packages() { # of this copy, whatever is installed
  export PYTHONPATH=$packages${PYTHONPATH:+:$PYTHONPATH}
}

any_python() { # sets `python` to one that runs what needs no installation
  if [ -n "${EARLY_PERSISTENCE_VENV:-}" ]; then
    use_own_environment
    return
  fi
  python=$root/.venv/bin/python
  "$python" --version >/dev/null 2>&1 || python=$(find_python)
  use_packages
}

make_environment() { # folder
  local base
  base=$(find_python)
  say "Making the environment .venv with $("$base" --version 2>&1)"
  "$base" -m venv --clear "$1" || fail "could not make the environment $1; see the lines above"
}

requirements_hash() { # changes with whatever an installation depends on
  (cd "$root" && "$python" -c '
import hashlib, pathlib, sys
parts = [sys.version, str(pathlib.Path.cwd())] + [pathlib.Path(name).read_text() for name in sys.argv[1:]]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())' requirements.txt pyproject.toml)
}

install_requirements() { # folder of the environment
  say "Setting up .venv: $requirements_cost"
  local log=$1/install.log
  rm -f "$log"
  (cd "$root" && "$python" -m pip install --disable-pip-version-check --log "$log" -r requirements.txt) && return
  if grep -Eq 'NameResolutionError|NewConnectionError|ConnectTimeoutError|ProxyError|name resolution|Network is unreachable|Connection refused|from versions: none' "$log"; then
    fail "the package index cannot be reached (no network, or a proxy to be set in HTTPS_PROXY); see $log and run this again"
  fi
  if grep -q 'No space left on device' "$log"; then
    fail "the disk is full: the environment needs 8 GB at $1, and as much of temporary space; see $log"
  fi
  fail "pip could not install requirements.txt; see the lines above and $log"
}

use_headless_opencv_where_needed() { # folder of the environment
  "$python" -c 'import cv2' 2>/dev/null && return
  # `trackers` asks for the OpenCV that opens windows; it needs libGL, which a server does not have
  local version
  version=$("$python" -c 'from importlib.metadata import version; print(version("opencv-python"))')
  say "OpenCV with windows does not load here (no libGL); taking opencv-python-headless $version"
  "$python" -m pip uninstall --disable-pip-version-check -q -y opencv-python
  "$python" -m pip install --disable-pip-version-check -q --no-deps --force-reinstall --log "$1/install.log" "opencv-python-headless==$version" ||
    fail "pip could not install opencv-python-headless $version; see $1/install.log"
  "$python" -c 'import cv2' || fail 'OpenCV does not load; see the line above'
}
