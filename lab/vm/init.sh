#!/bin/busybox sh
# Process 1 of the lab's virtual machine, first from the initial RAM disk (no argument), then on the real root ("root").
# Disks, in this order: /dev/vda the kernel's modules, /dev/vdb the virtual environment. 9p "root": the host's files,
# read-only. Ports: out, err (the command's output), status (`begun`, then `status N` once it has ended).
bb=/bin/busybox

if [ "${1:-}" != root ]; then
    $bb mkdir -p /proc /sys /dev /host /upper /root /modules
    $bb mount -t proc proc /proc
    $bb mount -t sysfs sysfs /sys
    $bb mount -t devtmpfs dev /dev
    while read -r module; do $bb insmod "/boot/$module"; done < /boot/order
    $bb mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /host
    $bb mount -t tmpfs -o size=60% tmpfs /upper
    $bb mkdir /upper/files /upper/work
    # What is written lands in memory; the host's files are never touched.
    $bb mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work overlay /root
    for word in $($bb cat /proc/cmdline); do
        case $word in kyoten.job=*) job=${word#*=} ;; esac
    done
    $bb cp "/host$job/command" /upper/command
    $bb cp "/host$job/environment" /upper/environment
    $bb cp /bin/busybox /init /upper/
    for place in proc sys dev; do $bb mount --move /$place /root/$place; done
    $bb mkdir -p /root/run
    $bb mount -t tmpfs -o mode=755 tmpfs /root/run
    $bb mkdir /root/run/vm
    $bb cp /upper/command /upper/environment /upper/busybox /upper/init /root/run/vm/
    exec $bb switch_root /root /run/vm/busybox sh /run/vm/init root
fi

bb=/run/vm/busybox
. /run/vm/environment
$bb mkdir -p /lib/modules /dev/pts /dev/shm /dev/net /run/lock /run/netns /run/sshd
$bb mount -t squashfs -o ro /dev/vda /lib/modules
$bb mount -t squashfs -o ro /dev/vdb "$KYOTEN_VM_ENVIRONMENT"
$bb mount -t devpts devpts /dev/pts
$bb mount -t tmpfs -o mode=1777 tmpfs /dev/shm
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Opening these loads the driver, as udev's static nodes do elsewhere.
[ -e /dev/net/tun ] || $bb mknod /dev/net/tun c 10 200
[ -e /dev/ppp ] || $bb mknod /dev/ppp c 108 0
[ -e /dev/fd ] || $bb ln -s /proc/self/fd /dev/fd
$bb hostname kyoten-vm
$bb ip link set lo up
$bb ulimit -n 65536
for port in /sys/class/virtio-ports/*; do
    $bb ln -sf "/dev/${port##*/}" "/run/vm/$($bb cat "$port/name")"
done
exec 3> /run/vm/status
echo begun >&3
$bb setsid /bin/sh /run/vm/command < /dev/null > /run/vm/out 2> /run/vm/err 3>&-
echo "status $?" >&3
exec 3>&-
$bb poweroff -f
