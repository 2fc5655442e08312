#!/bin/sh
# Installs what `make demo` and `make test` need: the Debian packages of debian-packages.txt and a virtual
# environment from setup.cfg. Starts no service on the host, enables none, and leaves mail, firewall, routes and
# resolver as they were. Does nothing, in well under a second, when all is there already.
#
#   lab/setup.sh          everything (needs root)
#   lab/setup.sh venv     the virtual environment only (no root; for `make check`)
#   lab/setup.sh image    everything, and what builds the router's image (`make image`)
#   lab/setup.sh vm       all that, and the virtual machine of `kyoten-lab vm`: an emulator and a kernel (100 MB)
set -eu
cd "$(dirname "$0")/.."
venv=.venv
what=${1:-all}

fail() { echo "setup: $*" >&2; exit 1; }

wanted_packages() {
    grep -hv '^[[:space:]]*\(#\|$\)' lab/debian-packages.txt
    [ "$what" != vm ] || grep -hv '^[[:space:]]*\(#\|$\)' lab/debian-packages-vm.txt lab/debian-packages-image.txt
    [ "$what" != image ] || grep -hv '^[[:space:]]*\(#\|$\)' lab/debian-packages-image.txt
}

missing_packages() {
    for package in $(wanted_packages); do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

# A package's maintainer script asks policy-rc.d before it starts its daemon; 101 means "no". The file is ours only
# while apt runs, and one that is already there is kept.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    echo "setup: installing Debian packages: $*"
    apt-get -qq update || fail "apt-get update failed: the package lists cannot be read; check the machine's apt sources"
    # Installing one mail server removes another: never do that to a machine in use.
    removed=$(apt-get -s install --no-install-recommends "$@" | sed -n 's/^Remv \([^ ]*\).*/\1/p' | tr '\n' ' ')
    [ -z "$removed" ] || fail "installing the lab's packages would remove: $removed- use another machine, or remove them yourself first"
    policy=/usr/sbin/policy-rc.d
    made_policy=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        made_policy=yes
        trap 'rm -f "$policy"' EXIT INT TERM HUP
    fi
    # No database server that the machine did not have before: ours are private ones.
    cluster=/etc/postgresql-common/createcluster.d/kyoten-lab.conf
    case " $* " in
        *" postgresql "*) mkdir -p "${cluster%/*}" && echo 'create_main_cluster = false' > "$cluster" ;;
    esac
    case " $* " in
        *" postfix "*) echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections ;;
    esac
    apt-get -qq install -y --no-install-recommends "$@" >/dev/null || fail "apt-get install failed for: $*"
    rm -f "$cluster"
    if [ "$made_policy" = yes ]; then rm -f "$policy"; trap - EXIT INT TERM HUP; fi
    # policy-rc.d keeps daemons from starting now; disabling keeps them from starting at the next boot.
    for unit in postfix strongswan saslauthd ssh postgresql; do
        package=$unit
        case $unit in strongswan) package=charon-systemd ;; saslauthd) package=sasl2-bin ;; ssh) package=openssh-server ;; esac
        case " $* " in
            *" $package "*) command -v systemctl >/dev/null && systemctl --quiet disable "$unit" >/dev/null 2>&1 || true ;;
        esac
    done
}

make_venv() {
    [ -x /usr/bin/python3 ] || fail "/usr/bin/python3 is missing; install python3"
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
    stamp=$(cat setup.cfg pyproject.toml constraints.txt lab/setup.sh | sha256sum | cut -d' ' -f1)
    [ "$(cat $venv/.stamp 2>/dev/null || true)" = "$stamp" ] && return
    echo "setup: building the virtual environment $venv"
    [ -x $venv/bin/python ] || /usr/bin/python3 -m venv $venv || fail "cannot make $venv; install python3-venv"
    $venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]' \
        || fail "pip could not install the Python packages of setup.cfg"
    echo "$stamp" > $venv/.stamp
}

if [ "$what" != venv ]; then
    [ "$(id -u)" = 0 ] || fail "root is needed (namespaces, iptables, packages); run it as root"
    [ -e /etc/debian_version ] || fail "this set-up knows Debian only (12 or newer)"
    missing=$(missing_packages | tr '\n' ' ')
    # shellcheck disable=SC2086 # a list of words on purpose
    [ -z "$missing" ] || install_packages $missing
fi
make_venv
[ "$what" != vm ] || [ -e /var/cache/kyoten-lab/vm/kernel/order ] || $venv/bin/python -m lab.vm.kernel
