#!/usr/bin/env bash
# A node as small as it can be and real: a process that makes a block five times a second.
#
#   node.sh start DIR     start it in the background; nothing if it runs
#   node.sh run DIR       be it
#
# DIR/db holds the blocks, which never change once they have their names, and HEAD, which does.
# DIR/pid is the process, and DIR/clean is there only after an end in order.
set -euo pipefail
verb=$1 dir=$(realpath "$2")
mkdir -p "$dir/db"

case $verb in
start)
	setsid "$0" run "$dir" >>"$dir/log" 2>&1 </dev/null &
	;;
run)
	exec 9>"$dir/lock"
	flock -w 1 9 || exit 0 # it runs already
	echo $$ >"$dir/pid"
	rm -f "$dir/clean"
	trap 'touch "$dir/clean"; exit 0' TERM
	height=$(cat "$dir/db/HEAD" 2>/dev/null || echo 0)
	while :; do
		height=$((height + 1))
		head -c 4096 /dev/urandom >"$dir/db/new"
		mv "$dir/db/new" "$dir/db/$(printf %08d.block "$height")"
		echo "$height" >"$dir/db/new"
		mv "$dir/db/new" "$dir/db/HEAD"
		sleep 0.2 9>&-
	done
	;;
esac
