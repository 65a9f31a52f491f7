#!/usr/bin/env bash
# make demo-release: a stand-in erigon on this machine, two releases of it into a bucket that is a directory, each reviewed by
# hand, and a consumer who checks what was published. No root, nothing beyond loopback, and nothing is left behind.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
bin=$here/bin
export PATH="$bin:$PATH" SNAPFW_PLUGINS="$here/plugins.d"

if ! command -v rclone >/dev/null; then
	echo "make demo-release needs rclone: apt-get install rclone" >&2
	exit 1
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/snapfw-demo.XXXXXX")
datadir=$dir/erigon-data
web_pid=
clean() {
	# A release starts erigon again under another pid: its lock says which.
	"$SNAPFW_PLUGINS/snapfw-erigon" launch stop --datadir "$datadir" --wait 10s --kill-after 5s >/dev/null 2>&1 || true
	[ -z "$web_pid" ] || kill "$web_pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() {
	local word line='$'
	for word; do
		case $word in *' '*) line+=" \"$word\"" ;; *) line+=" $word" ;; esac
	done
	printf '\033[2m%s\033[0m\n' "$line"
	"$@"
}
# parks runs what has to end with exit code 5: waiting for a review is no failure, and neither is it done.
parks() {
	local code=0
	run "$@" || code=$?
	[ "$code" -eq 5 ] || { echo "exit code $code instead of 5" >&2; exit 1; }
	echo "(exit code 5: parked)"
}
# address waits for the line of a log that says where a server listens.
address() {
	local url=
	for _ in $(seq 200); do
		url=$(sed -n "$2" "$1" 2>/dev/null | head -n 1) || true
		[ -z "$url" ] || break
		sleep 0.1
	done
	[ -n "$url" ] || { cat "$1" >&2; exit 1; }
	echo "$url"
}

# free finds a port that nobody listens at. The node needs a fixed one: it is started again as it was launched.
free() {
	local port
	while port=$((20000 + RANDOM % 20000)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
}

say "A snapshotter: a stand-in erigon which makes blocks, and builds and merges files behind them"
snapfw-erigon-devnet fill --datadir "$datadir" --blocks 115000 --steps 71 >/dev/null
port=$(free)
setsid "$bin/erigon" --datadir "$datadir" --chain mainnet --http.port "$port" --no-downloader --prune.mode archive --persist.receipts \
	--devnet.block-time 100ms --devnet.build-time 100ms >"$dir/erigon.log" 2>&1 </dev/null &
address "$dir/erigon.log" 's,.*HTTP endpoint opened.*\(127.*\),\1,p' >/dev/null
echo "$(find "$datadir/snapshots" -type f | wc -l) files in $datadir/snapshots; JSON-RPC on port $port"

say "A bucket, and the address that consumers read it from"
mkdir "$dir/bucket"
rclone serve webdav "$dir/bucket" --read-only --dir-cache-time 0s --addr 127.0.0.1:0 --log-file "$dir/web.log" --log-level NOTICE &
web_pid=$!
url=$(address "$dir/web.log" 's,.*\(http://127.0.0.1:[0-9]*\)/.*,\1,p')
echo "$url"

cat >"$dir/snapfw.yaml" <<CONFIG
state_dir: $dir/state
ssh:
  host_dir: $dir/host
sinks:
  bucket:
    plugin: rclone
    to: $dir/bucket
    public_url: $url
chains:
  erigon-mainnet:
    driver: erigon
    local: true
    chain: mainnet
    datadir: $datadir
    rpc_port: $port
    programs:
      erigon: $bin/erigon
      integration: $bin/integration
CONFIG
cd "$dir"

say "The first release: stop, retire, index, check, link, start; then torrents, the judge, the upload"
parks snapfw release --chain erigon-mainnet
# newest is the run that was made last.
newest() { snapfw runs --chain erigon-mainnet | sed -n '2s/ .*//p'; }

say "The node is up, the bytes are in the bucket, and no list names them before somebody agrees"
id=$(newest)
[ ! -e bucket/mainnet.toml ]
run snapfw approve "$id" --reason "the first one"
run snapfw resume "$id"

say "The chain grows and its files merge; the second release uploads what is new"
# merged tells whether a published file of accounts went into a longer one.
merged() {
	local name
	for name in $(sed -n "s,^'\(domain/[^']*-accounts\.[^']*\.kv\)'.*,\1,p" bucket/mainnet.toml); do
		[ -e "$datadir/snapshots/$name" ] || return 0
	done
	return 1
}
for _ in $(seq 600); do
	! merged || break
	sleep 0.2
done
merged || { echo "nothing was merged in two minutes" >&2; tail -n 20 "$dir/erigon.log" >&2; exit 1; }
parks snapfw release --chain erigon-mainnet
id=$(newest)
run snapfw show "$id"
run snapfw approve "$id" --reason "read the report: growth and merges"
run snapfw resume "$id"
run snapfw runs

say "A consumer: one list, and what lies under its names"
fetch() { rclone --log-level ERROR copyurl "$url/$1" "$2"; }
fetch mainnet.toml mainnet.toml
echo "$(grep -c = mainnet.toml) names; the last of them:"
grep = mainnet.toml | tail -n 2
name=$(sed -n "s/^'\(v[^']*headers\.seg\)'.*/\1/p" mainnet.toml | tail -n 1)
mkdir -p again/snapshots
fetch "$name" "again/snapshots/$name"
"$SNAPFW_PLUGINS/snapfw-erigon" torrents --datadir "$dir/again" >/dev/null
made=$(snapfw-erigon-devnet downloader torrent_hashes --datadir "$dir/again" | sed -n "s/^'$name' = '\(.*\)'/\1/p")
listed=$(sed -n "s/^'$name' = '\(.*\)'/\1/p" mainnet.toml)
[ -n "$made" ] && [ "$made" = "$listed" ]
echo "$name was fetched: its bytes have the infohash that the list says, $made"

say "Done. Everything that this demo made is removed; docs/erigon.md has the rest."
