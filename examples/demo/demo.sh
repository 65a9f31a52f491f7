#!/usr/bin/env bash
# make demo: a small sharded network on this machine, two snapshots of it into a bucket, and
# the proof that what was published opens. No root, nothing beyond loopback, and nothing is left behind.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
export PATH="$here/bin:$PATH" SNAPFW_PLUGINS="$here/plugins.d"

if ! command -v rclone >/dev/null; then
	echo "make demo needs rclone: apt-get install rclone" >&2
	exit 1
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/snapfw-demo.XXXXXX")
bucket_pid=
clean() {
	snapfw-devnet down --dir "$dir/net" >/dev/null 2>&1 || true
	[ -z "$bucket_pid" ] || kill "$bucket_pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

say "A network of two shards, each node with a LevelDB of its own"
for shard in 0 1; do
	mkdir -p "$dir/net/shard$shard/data"
	snapfw-devnet fill --shard $shard --datadir "$dir/net/shard$shard/data/harmony_db_$shard" --blocks 500 --bytes $((96 << 20)) --level-size $((512 << 10)) --settle >/dev/null
done
snapfw-devnet up --dir "$dir/net" --shards 2 --detach -- --block-time 200ms --state-bytes 4096 --table-size $((2 << 20)) --write-buffer $((1 << 20)) --level-size $((512 << 10))

say "A bucket on loopback, which can copy inside itself"
mkdir "$dir/bucket"
rclone serve webdav "$dir/bucket" --addr 127.0.0.1:0 --log-file "$dir/bucket.log" --log-level NOTICE &
bucket_pid=$!
url=
for _ in $(seq 100); do
	url=$(sed -n 's,.*\(http://127.0.0.1:[0-9]*\)/.*,\1,p' "$dir/bucket.log" 2>/dev/null | head -n 1) || true
	[ -z "$url" ] || break
	sleep 0.1
done
cat >"$dir/rclone.conf" <<EOF
[bucket]
type = webdav
url = $url
vendor = other
EOF
echo "$url, stored in $dir/bucket"

"$here/examples/demo/config.sh" "$dir" >"$dir/snapfw.yaml"
cd "$dir"

say "The first snapshot: stop, capture, start, upload, check, point consumers at it"
run snapfw snapshot --chain demo --publish

say "The nodes go on; the second snapshot uploads what is new and has the bucket copy the rest"
sleep 3
run snapfw snapshot --chain demo --publish

say "Where the nodes are now, and what was done"
run snapfw status --chain demo
run snapfw runs

say "A consumer: follow the pointer, fetch the files, check them, open the database"
prefix=$(sed -n 's/^  "prefix": "\(.*\)",$/\1/p' bucket/pruned/1/latest.json)
run rclone --config rclone.conf copy "bucket:$prefix" fetched
(cd fetched && sha256sum --quiet -c SHA256SUMS && echo "SHA256SUMS: every file is what was published")
rm -f fetched/manifest.json fetched/SHA256SUMS
run snapfw-devnet check --datadir fetched

say "Done. Everything that this demo made is removed; see README.md for where to go next."
