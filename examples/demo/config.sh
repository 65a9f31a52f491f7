#!/usr/bin/env bash
# Prints the demo's configuration: what an operator would write in snapfw.yaml, for nodes on this machine that
# are stopped and started by commands instead of systemd.
set -euo pipefail
dir=$1
node() { # SHARD
	local port
	port=$(sed -n "/\"name\": \"shard$1\"/,/\"port\"/s/.*\"port\": \([0-9]*\).*/\1/p" "$dir/net/network.json")
	cat <<EOF
      - shard: $1
        local: true
        rpc_port: $port
        db_directory: $dir/net/shard$1/data
        commands:
          stop: [$(command -v snapfw-devnet), ctl, --dir, $dir/net, stop, shard$1]
          start: [$(command -v snapfw-devnet), ctl, --dir, $dir/net, start, shard$1]
          log: $dir/net/shard$1/node.log
EOF
}
cat <<EOF
state_dir: $dir/state
ssh:
  host_dir: $dir/host
sinks:
  bucket:
    plugin: rclone
    to: "bucket:"
    config_path_on_host: $dir/rclone.conf
chains:
  demo:
    driver: harmony
    sink: bucket
    max_downtime: 1m
    keep: {count: 3}
    condition:
      force: false
      max_seconds_since_last_block: 30
      role: Validator
      network: localnet
      is_leader: false
      is_archival: false
    machines:
$(node 0)
$(node 1)
EOF
