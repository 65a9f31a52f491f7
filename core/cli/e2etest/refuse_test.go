package e2etest

import (
	"net"
	"testing"

	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
)

// TestUnreachable can't log in to one of two machines, in every way that there is. No node is touched.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	config := w.config["ssh"].(table)
	port, known, key := w.machines[1]["port"], config["known_hosts"].([]string), config["key"]
	for _, name := range []string{"locked", "foreign"} {
		phrase := map[string]string{"locked": "open sesame"}[name]
		if _, err := sshdtest.WriteKey(w.path(name), phrase); err != nil {
			t.Fatal(err)
		}
	}
	w.write(w.path("phrase"), "open barley\n")
	for _, c := range []struct {
		name  string
		spoil func()
		words []string
	}{
		{"nothing listens", func() { w.machines[1]["port"] = closedPort(t) }, []string{"nothing listens at", "check that sshd runs"}},
		{"unknown host", func() { config["known_hosts"] = known[:1] }, []string{"shard1", "known_hosts"}},
		{"wrong passphrase", func() { config["key"], config["passphrase"] = w.path("locked"), "file:"+w.path("phrase") }, []string{"passphrase"}},
		{"no passphrase", func() { config["key"] = w.path("locked") }, []string{"passphrase"}},
		{"foreign key", func() { config["key"] = w.path("foreign") }, []string{"refuses to log " + w.sshds[0].User + " in", "authorized_keys"}},
		{"changed host key", func() {
			if err := w.sshds[1].NewHostKey(); err != nil {
				t.Fatal(err)
			}
		}, []string{"host key", "changed"}},
	} {
		w.machines[1]["port"], config["known_hosts"], config["key"] = port, known, key
		delete(config, "passphrase")
		untouched := w.untouched()
		c.spoil()
		t.Log(c.name)
		w.must(1, publish, c.words...)
		untouched()
	}
	w.bucketWhole(0)
}

// closedPort is one at which nothing listens.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestConditions has nodes that are not as the configuration wants them: refused, with what was wanted, what was found
// and what to do; let through by --force with a reason, which is published, but for what protects data.
func TestConditions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	untouched := w.untouched()
	forced := append(publish[:len(publish):len(publish)], "--force", "--reason", "the whole shard rotates")

	w.condition()["role"] = "ExplorerNode"
	w.must(3, publish, "role: want ExplorerNode, got Validator; take a node of that role")
	w.must(2, append(publish[:len(publish):len(publish)], "--force"), "--reason")
	w.ctl("behave", "shard1", "rotate=always:1h")
	w.condition()["role"] = "Validator"
	w.must(3, publish, "shard1: leader: want false, got true; try again later")

	w.machines[1]["rpc_port"], w.machines[0]["rpc_port"] = w.machines[0]["rpc_port"], w.machines[1]["rpc_port"]
	w.must(3, forced, "shard0: shard: want 0, got 1", "shard1: shard: want 1, got 0")
	w.machines[1]["rpc_port"], w.machines[0]["rpc_port"] = w.machines[0]["rpc_port"], w.machines[1]["rpc_port"]
	w.condition()["network"] = "mainnet"
	w.must(3, forced, "network: want mainnet, got localnet")
	w.condition()["network"] = "localnet"
	untouched()
	w.bucketWhole(0)

	w.condition()["role"] = "ExplorerNode"
	e := w.must(0, forced, "bypassed by --force (the whole shard rotates): role")
	w.nodesUp()
	w.bucketWhole(2)
	w.fromRun(e.run.Run)
	for shard := range shards {
		p, _ := w.pointerOf(shard)
		if m := w.snapshotWhole(p); m.Forced != "the whole shard rotates" {
			t.Errorf("shard %d: the manifest says forced %q", shard, m.Forced)
		}
	}
}
