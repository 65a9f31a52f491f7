#!/bin/bash
# A machine with a real systemd as PID 1, on a throw-away overlay of this machine's root. It shares the network
# and nothing else: what it writes goes to a tmpfs that is gone with it, it has its own processes,
# mounts and cgroups, and /tmp and /run are its own (systemd empties /tmp when it starts).
#
#   unshare --mount --propagation private bash overlay.sh IN WORK TARGET
#
# IN      is read: IN/setup, a script that is run once in the overlay before systemd starts, with
#         IN mounted read-only at /oldin; IN/again is removed and the machine started anew, with the same disk,
#         when systemd was killed or asked for a reboot
# WORK    an empty folder
# TARGET  the unit that systemd starts
set -eu

machine() { # in namespaces of its own for processes, mounts, hosts' names, IPC and cgroups
	local root=$1/root target=$2
	mount -t proc proc "$root/proc"
	cat /proc/sys/kernel/random/uuid >"$1/boot"
	mount --bind "$1/boot" "$root/proc/sys/kernel/random/boot_id"
	mount --rbind /sys "$root/sys"
	umount -l "$root/sys/fs/cgroup"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
	mkdir -p "$root/run/systemd/system" "$root/run/sshd" "$root/run/lock"
	# What reaches for devices, the clock, the network or the kernel of the real machine is masked.
	local unit
	for unit in systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer \
		systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
		systemd-timesyncd.service systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service \
		systemd-random-seed.service systemd-networkd.service systemd-resolved.service systemd-binfmt.service \
		systemd-pstore.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount \
		sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount; do
		ln -s /dev/null "$root/run/systemd/system/$unit"
	done
	cd "$root"
	pivot_root . oldroot
	umount -l /oldroot
	export container=test
	exec /lib/systemd/systemd --system --unit="$target" --log-target=journal --log-level=info --show-status=no
}

if [ "$1" = machine ]; then
	machine "$2" "$3"
fi

in=$1 work=$2 target=$3
mount -t tmpfs -o size=1g,mode=755 tmpfs "$work"
mkdir "$work/up" "$work/wk" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/up,workdir=$work/wk" "$work/root"
mkdir "$work/root/oldroot" "$work/root/oldin"
mount --bind "$in" "$work/root/oldin"
mount -o remount,ro,bind "$work/root/oldin"
chroot "$work/root" /bin/bash /oldin/setup
umount "$work/root/oldin"

self=$(realpath "$0")
while :; do
	status=0
	setpriv --pdeathsig KILL unshare --pid --fork --kill-child=KILL --mount --uts --ipc --cgroup --propagation private \
		bash "$self" machine "$work" "$target" || status=$?
	[ -e "$in/again" ] || exit "$status"
	rm "$in/again"
done
