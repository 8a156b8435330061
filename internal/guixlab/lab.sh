#!/usr/bin/env bash
# A lab of real Guix machines in folders of this one: lab.sh up|down|status|enter.
#
# One base system (Debian sid with guix, made by debootstrap) is shared by all machines; each is
# an overlay of it with a mount namespace of its own, so that / is a mount point there and user
# namespaces are allowed. All of them live in one PID and one network namespace, whose first
# process is the lab: nothing listens on this machine, and when that process ends nothing is left
# running or mounted.
#
#   head       guix-daemon, sshd on 127.0.1.1; the sources at /src
#   builder1   guix-daemon, sshd on 127.0.1.11
#   builder2   guix-daemon, sshd on 127.0.1.12
#   plain      sshd on 127.0.1.13, and nothing of Guix
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_tree=$(cd "$here/../.." && pwd)
lab=${LIGHTER_GUIX_LAB:-$source_tree/build/guix-lab}
suite=${LIGHTER_GUIX_SUITE:-sid}
mirror=${LIGHTER_GUIX_MIRROR:-} # empty: debootstrap knows one
packages=guix,guile-zstd,openssh-server,openssh-client,libgcrypt20-dev,busybox-static,procps
machines=(head builder1 builder2 plain)

die() { echo "guix-lab: $*" >&2; exit 1; }
say() { echo "guix-lab: $*" >&2; }

address() {
	case $1 in
	head) echo 127.0.1.1 ;;
	builder1) echo 127.0.1.11 ;;
	builder2) echo 127.0.1.12 ;;
	plain) echo 127.0.1.13 ;;
	*) die "no machine is named $1; there are: ${machines[*]}" ;;
	esac
}

# The process that is the lab, or nothing.
lab_pid() {
	local pid started
	[ -r "$lab/pid" ] || return 1
	read -r pid started <"$lab/pid"
	[ -r "/proc/$pid/stat" ] && [ "$(start_time "$pid")" = "$started" ] && echo "$pid"
}

start_time() { awk '{sub(/^.*\) /, ""); print $20}' "/proc/$1/stat"; }

# ---- up -----------------------------------------------------------------------------------

up() {
	[ "$(id -u)" = 0 ] || die "namespaces and overlays need root: sudo make guix-lab"
	if lab_pid >/dev/null; then
		say "it is up already, in $lab"
		return
	fi
	local tool missing=()
	for tool in debootstrap unshare nsenter pivot_root; do
		command -v $tool >/dev/null || missing+=($tool)
	done
	[ ${#missing[@]} = 0 ] || die "not found: ${missing[*]}; on Debian: apt-get install debootstrap util-linux"
	mkdir -p "$lab"
	# Guile's compiled files are named *.go. Go looks into no folder of another module.
	echo 'module lab' >"$lab/go.mod"
	[ -d "$lab/base" ] || make_base
	rm -rf "$lab/machine" "$lab/run"
	mkdir -p "$lab/run"
	setsid --fork unshare --mount --pid --net --fork --kill-child --propagation private \
		"$0" inside </dev/null >"$lab/log" 2>&1
	local i
	for ((i = 0; i < 600; i++)); do
		if [ -e "$lab/run/ready" ]; then
			say "up, in $lab; a shell on the head: $0 enter head"
			return
		fi
		if [ -e "$lab/run/failed" ]; then break; fi
		sleep 0.1
	done
	tail -n 20 "$lab/log" >&2
	stop
	die "it did not come up; the whole log is $lab/log"
}

make_base() {
	say "debootstrap of Debian $suite with $packages"
	rm -rf "$lab/base.new"
	debootstrap --variant=minbase --include=$packages "$suite" "$lab/base.new" ${mirror:+"$mirror"} >"$lab/debootstrap.log" 2>&1 ||
		die "debootstrap failed: $(tail -n 3 "$lab/debootstrap.log")"
	local base=$lab/base.new
	groupadd --root "$base" --system guixbuild 2>/dev/null || true
	local i
	for i in 1 2 3 4 5 6 7 8 9 10; do
		id_in "$base" "guixbuilder$i" || useradd --root "$base" --system --gid guixbuild --groups guixbuild \
			--home-dir /var/empty --shell /usr/sbin/nologin "guixbuilder$i"
	done
	useradd --root "$base" --create-home --shell /bin/bash --password '*' offload # on machines: the account that builds
	useradd --root "$base" --create-home --shell /bin/bash --password '*' user # on the head: somebody
	useradd --root "$base" --system --home-dir /var/lib/lighter --shell /usr/sbin/nologin lighter # on the head: the coordinator
	rm -f "$base"/etc/ssh/ssh_host_* "$base"/var/cache/apt/archives/*.deb
	mv "$base" "$lab/base"
}

id_in() { grep -q "^$2:" "$1/etc/passwd"; }

# ---- inside: the first process of the lab -------------------------------------------------------

inside() {
	trap 'touch "$lab/run/failed"' EXIT
	local pid m
	read -r pid _ </proc/self/stat # of the machine's own /proc still, so that it is the number outside
	echo "$pid $(start_time "$pid")" >"$lab/pid"
	mount -t proc proc /proc
	"$lab/base/usr/bin/busybox" ip link set lo up
	mkdir -p "$lab/run/keys"
	for m in "${machines[@]}"; do
		unshare --mount --uts --propagation private "$0" machine "$m" &
	done
	for m in "${machines[@]}"; do
		until [ -e "$lab/run/$m.ready" ]; do
			[ ! -e "$lab/run/$m.failed" ] || exit 1
			sleep 0.05
		done
	done
	trap - EXIT
	touch "$lab/run/ready"
	trap 'exit 0' TERM
	while :; do wait -n 2>/dev/null || sleep 1; done
}

# ---- one machine ------------------------------------------------------------------------------

machine() {
	local m=$1 root=$lab/machine/$1
	trap 'touch "$lab/run/$m.failed"' EXIT
	hostname "$m"
	mkdir -p "$root/upper" "$root/work" "$root/root"
	mount -t overlay "lab-$m" -o "lowerdir=$lab/base,upperdir=$root/upper,workdir=$root/work" "$root/root" ||
		{ cp -a "$lab/base/." "$root/root/" && mount --bind "$root/root" "$root/root"; } # overlays do not lie on overlays
	cd "$root/root"
	mount -t proc proc proc
	mount -t sysfs sysfs sys 2>/dev/null || mount --rbind /sys sys
	mount --rbind /dev dev
	mount -t tmpfs -o mode=755 tmpfs run
	mkdir -p lab run/sshd
	mount --bind "$lab/run" lab
	if [ "$m" = head ]; then
		mkdir -p src
		mount --bind "$source_tree" src
	fi
	mkdir -p .outside
	pivot_root . .outside
	cd /
	exec /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 \
		/bin/bash /lab/script machine-inside "$m"
}

# Runs in the machine's root.
machine_inside() {
	local m=$1 other
	trap 'touch "/lab/$m.failed"' EXIT
	umount -l /.outside
	rmdir /.outside
	{
		echo '127.0.0.1 localhost'
		for other in head builder1 builder2 plain; do echo "$(address $other) $other"; done
	} >/etc/hosts
	echo "$m" >/etc/hostname
	make_key /etc/ssh/ssh_host_ed25519_key "$m.host"
	printf 'ListenAddress %s\nHostKey /etc/ssh/ssh_host_ed25519_key\n' "$(address "$m")" >/etc/ssh/sshd_config.d/lab.conf
	if [ "$m" = plain ]; then
		rm -rf /gnu /var/guix /etc/guix /usr/bin/guix /usr/bin/guix-daemon
	else
		guix_setup "$m"
	fi
	if [ "$m" = head ]; then
		head_setup
	else
		await_key offload
		install -d -m 700 -o offload -g offload /home/offload/.ssh
		install -m 600 -o offload -g offload /lab/keys/offload.pub /home/offload/.ssh/authorized_keys
	fi
	start_sshd
	[ "$m" = plain ] || start_daemon
	echo $$ >"/lab/$m.pid"
	trap - EXIT
	touch "/lab/$m.ready"
	sleep infinity &
	wait # which takes note of whatever ends
}

make_key() {
	rm -f "$1"
	ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$1"
	publish_key "$1.pub" "$2"
}

# Public keys pass through a folder that all machines see.
publish_key() {
	cp "$1" "/lab/keys/$2.new"
	mv "/lab/keys/$2.new" "/lab/keys/$2.pub"
}

await_key() {
	until [ -e "/lab/keys/$1.pub" ]; do sleep 0.05; done
}

guix_setup() {
	local m=$1 other base
	# Build users of their own: guix-daemon kills every process of a build user that it
	# sees, and the machines see each other's.
	case $m in head) base=30100 ;; builder1) base=30200 ;; *) base=30300 ;; esac
	awk -F: -v OFS=: -v id=$base '/^guixbuilder/ { $3 = id++ } { print }' /etc/passwd >/etc/passwd.new
	mv /etc/passwd.new /etc/passwd
	mkdir -p /gnu/store /var/guix /var/empty
	chown root:guixbuild /gnu/store
	chmod 1775 /gnu/store
	guix archive --generate-key 2>/dev/null
	publish_key /etc/guix/signing-key.pub "$m.guix"
	for other in head builder1 builder2; do
		await_key "$other.guix"
		# The head and its builders trust each other.
		if [ "$m" = head ] || [ "$other" = head ] || [ "$m" = "$other" ]; then
			guix archive --authorize <"/lab/keys/$other.guix.pub"
		fi
	done
}

head_setup() {
	local home owner m
	make_key /root/.ssh-offload offload
	for m in builder1 builder2 plain; do await_key "$m.host"; done
	for home in /root /home/user /var/lib/lighter; do
		owner=root
		case $home in /home/user) owner=user ;; /var/lib/lighter) owner=lighter ;; esac
		install -d -m 755 -o $owner "$home"
		install -d -m 700 -o $owner "$home/.ssh"
		install -m 600 -o $owner /root/.ssh-offload "$home/.ssh/id_ed25519"
		install -m 644 -o $owner /lab/keys/offload.pub "$home/.ssh/id_ed25519.pub"
		for m in builder1 builder2 plain; do
			echo "$m $(cut -d' ' -f1,2 <"/lab/keys/$m.host.pub")"
		done >"$home/.ssh/known_hosts"
		chown $owner "$home/.ssh/known_hosts"
	done
	rm -f /root/.ssh-offload /root/.ssh-offload.pub
	{
		echo ';; What "guix offload" reads.'
		echo '(list'
		for m in builder1 builder2; do
			cat <<-SCHEME
				 (build-machine
				  (name "$m") (systems '("x86_64-linux")) (user "offload")
				  (private-key "/root/.ssh/id_ed25519")
				  (host-key "$(cut -d' ' -f1,2 <"/lab/keys/$m.host.pub")")
				  (overload-threshold #f) (parallel-builds 4))
			SCHEME
		done
		echo ')'
	} >/etc/guix/machines.scm
	cp /etc/guix/machines.scm /lab/machines.scm
}

# Called again, by way of "script service sshd", after somebody stopped it.
start_sshd() {
	/usr/sbin/sshd -E /var/log/sshd.log
	until [ -s /run/sshd.pid ]; do sleep 0.02; done
}

# LAB_SUBSTITUTES=--substitute-urls=URL lets guix-daemon substitute: it does not, whatever a
# client asks, when it was started with --no-substitutes.
start_daemon() {
	local old
	if old=$(cat /run/guix-daemon.pid 2>/dev/null) && kill "$old" 2>/dev/null; then
		while grep -q '^State:.[^Z]' "/proc/$old/status" 2>/dev/null; do sleep 0.02; done
	fi
	rm -f /var/guix/daemon-socket/socket
	mkdir -p /var/log/guix
	setsid guix-daemon --build-users-group=guixbuild "${LAB_SUBSTITUTES:---no-substitutes}" "$@" >>/var/log/guix-daemon.log 2>&1 </dev/null &
	echo $! >/run/guix-daemon.pid
	until [ -S /var/guix/daemon-socket/socket ]; do sleep 0.02; done
}

# ---- the rest --------------------------------------------------------------------------------

# Outside PID of a machine's first process.
machine_pid() {
	local lab_process m=$1 pid
	address "$m" >/dev/null
	lab_process=$(lab_pid) || die "it is not up; make guix-lab"
	for pid in $(cat "/proc/$lab_process/task/$lab_process/children"); do
		if [ "$(nsenter --target "$pid" --uts hostname 2>/dev/null)" = "$m" ]; then
			echo "$pid"
			return
		fi
	done
	die "machine $m does not run; see $lab/log"
}

enter() {
	local m=${1:-head} pid
	shift || true
	pid=$(machine_pid "$m")
	[ $# -gt 0 ] || set -- /bin/bash -l
	exec nsenter --target "$pid" --mount --uts --pid --net /usr/bin/env -i -C / \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" "$@"
}

stop() {
	local pid
	if pid=$(lab_pid); then
		kill -KILL "$pid"
		while lab_pid >/dev/null; do sleep 0.05; done
	fi
	rm -f "$lab/pid"
}

down() {
	[ -e "$lab" ] || return 0
	[ "$(id -u)" = 0 ] || die "the lab is root's: sudo make guix-lab-down"
	stop
	rm -rf --one-file-system "$lab"
	say "removed $lab"
}

case ${1:-} in
up)
	up
	;;
inside)
	cp "$0" "$lab/run/script"
	inside
	;;
machine) machine "$2" ;;
machine-inside) machine_inside "$2" ;;
service) # inside a machine: start sshd or guix-daemon again
	shift
	"start_$1" "${@:2}"
	;;
enter)
	shift
	enter "$@"
	;;
status)
	if pid=$(lab_pid); then echo "up: process $pid, in $lab"; else echo "down"; exit 1; fi
	;;
down) down ;;
*) die "usage: lab.sh up | down | status | enter [MACHINE [COMMAND...]]" ;;
esac
