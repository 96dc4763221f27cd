#!/bin/sh
# deps.sh run|check|hip [BUILD] - installs what a Debian machine lacks; silent when nothing is.
#
# `run` is what building and running greta needs; `hip` adds what `make GPU=hip` needs; `check` adds
# that and what the tests need: a second compiler, the test libraries, a server for ssh (which is
# not started, nor will be at the next boot: the tests start their own, on a port of the loopback),
# and a virtual environment in BUILD/venv with the Python packages of tests/requirements.txt. The
# machine is asked every time: no stamp can go stale. Elsewhere than on Debian the list is printed,
# and the build goes on with what is there.
set -eu

what=${1:-check}
build=${2:-build}
here=$(cd "$(dirname "$0")/.." && pwd)
pinned=$here/tests/requirements.txt

# libc6-dev is only recommended by gcc; pip is how `greta pull` downloads a model.
packages="gcc libc6-dev make libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev
          python3 python3-pip"
if [ "$what" = check ]; then
    packages="$packages g++ clang lld pkg-config libcmocka-dev libmpfr-dev python3-venv
              git openssh-client openssh-server shellcheck"
fi
if [ "$what" != run ]; then
    packages="$packages clang-19 clang-tools-19 lld-19 libamdhip64-dev rocm-device-libs"
fi

missing() {
    for package in $packages; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            printf '%s ' "$package"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "deps: not root and no sudo; run as root: $*" >&2
        return 1
    fi
}

# Debian starts servers as they are installed, unless a policy forbids it; and at the next boot.
install_debian() {
    policy=
    case " $1 " in *" openssh-server "*)
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            policy=/usr/sbin/policy-rc.d
            printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
            as_root chmod 755 $policy
        fi
        ;;
    esac
    done=0
    # shellcheck disable=SC2086 # the list is meant to be split
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=120 $1 </dev/null || done=$?
    [ -z "$policy" ] || as_root rm -f $policy
    case " $1 " in *" openssh-server "*) as_root update-rc.d ssh disable || true ;; esac
    return $done
}

if ! command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086 # the list is meant to be split
    echo "deps: no apt-get here; what is needed, by its Debian name:" $packages
else
    wanted=$(missing)
    if [ -n "$wanted" ]; then
        echo "deps: installing $wanted"
        # The package lists may be absent, or too old for the mirror: fetch them only then.
        # shellcheck disable=SC2086 # the list is meant to be split
        if ! apt-get install -s $wanted >/dev/null 2>&1 || ! install_debian "$wanted"; then
            echo "deps: updating the package lists"
            as_root apt-get update -q </dev/null
            install_debian "$wanted"
        fi
    fi
fi

venv=$build/venv
if [ "$what" != check ] || {
    cmp -s "$pinned" "$venv/installed.txt" && "$venv/bin/python" -m pytest --version >/dev/null 2>&1
}; then
    exit 0
fi
if [ "${GRETA_OFFLINE:-0}" = 1 ]; then
    echo "deps: GRETA_OFFLINE=1: no Python packages; the tests that need them are skipped"
    exit 0
fi
echo "deps: installing into $venv: $(sed 's/ *#.*//' "$pinned" | xargs)"
rm -rf "$venv"
mkdir -p "$build"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r "$pinned"
cp "$pinned" "$venv/installed.txt"
