package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const behaveEnv = "SNAPFW_DEVNET_BEHAVE"

func behaveDoc() string {
	var b strings.Builder
	b.WriteString("Misbehaviours (--behave, $" + behaveEnv + " with commas, DATADIR/behave.json, \"ctl behave\"),\neach NAME=once, NAME=always, or with an argument behind a colon, NAME=once:5s:\n\n")
	for _, name := range slices.Sorted(maps.Keys(misbehaviours)) {
		m := misbehaviours[name]
		if m.arg != "" {
			name += "[:" + m.arg + "]"
		}
		fmt.Fprintf(&b, "  %-22s %s\n", name, m.doc)
	}
	return b.String()
}

func nodeCommand() *cobra.Command {
	var cfg nodeConfig
	var behave []string
	c := &cobra.Command{
		Use:   "node --shard N --datadir DIR --rpc ADDR",
		Short: "Run one node until SIGTERM",
		Long: "Run one node until SIGTERM: it exits 0 after \"" + lastWords + "\", its last line.\n" +
			"It exits 2 when its database is damaged or it panics, and 1 when it cannot start for another reason.\n\n" + behaveDoc(),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if env := os.Getenv(behaveEnv); env != "" {
				behave = append(strings.Split(env, ","), behave...)
			}
			if cfg.Behave, err = parsePairs(behave); err != nil {
				return err
			}
			if cfg.BlockTime <= 0 || cfg.StateBytes < 0 {
				return errors.New("--block-time must be more than 0 and --state-bytes not less")
			}
			return exitCode(runNode(cfg))
		},
	}
	f := c.Flags()
	f.Uint32Var(&cfg.Shard, "shard", 0, "the node's shard; another than 0 also has harmony_db_0, opened first")
	f.StringVar(&cfg.DataDir, "datadir", "", "the folder of harmony_db_SHARD")
	f.StringVar(&cfg.RPC, "rpc", "127.0.0.1:9500", "where it answers")
	f.StringVar(&cfg.Network, "network", "localnet", "the network that it says it is of")
	f.StringVar(&cfg.Log, "log", "", "append everything it says, a panic's trace too, to this file instead of stdout")
	f.StringVar(&cfg.Role, "role", "Validator", "Validator or ExplorerNode")
	f.BoolVar(&cfg.Leader, "leader", false, "it leads")
	f.BoolVar(&cfg.Archival, "archival", false, "it says that it is archival")
	f.BoolVar(&cfg.Snapdb, "snapdb", false, "its database is a pruned snapdb: it holds SnapdbInfo")
	f.BoolVar(&cfg.TrieCache, "trie-cache", false, "state is not written each block: after a stop that is not clean the next start exits 2 and the one after it is back at the epoch's last block")
	f.DurationVar(&cfg.BlockTime, "block-time", 200*time.Millisecond, "a block this often")
	f.IntVar(&cfg.StateBytes, "state-bytes", 16<<10, "random state a block, in bytes")
	f.IntVar(&cfg.Look, "look-back", 300, "blocks to check when it starts")
	f.IntVar(&cfg.Store.WriteBuffer, "write-buffer", 256<<10, "LevelDB's write buffer, in bytes: a table appears each time it is full (Harmony: 64 MiB)")
	f.IntVar(&cfg.Store.LevelSize, "level-size", 0, "LevelDB's size of level 0, in bytes; level n holds 10^n times it (0: 10 MiB, as Harmony)")
	f.IntVar(&cfg.Store.TableSize, "table-size", 256<<10, "LevelDB's table size, in bytes (Harmony: 2 MiB)")
	f.BoolVar(&cfg.Store.Fsync, "fsync", false, "have LevelDB fsync its tables, as Harmony's does; without it a database survives SIGKILL, but not a power cut")
	f.StringToStringVar(&cfg.ShardURLs, "shard-url", nil, "SHARD=URL that getShardingStructure answers instead of the network's template")
	f.StringArrayVar(&behave, "behave", nil, "a misbehaviour, see above; may be repeated")
	c.MarkFlagRequired("datadir")
	return c
}

func upCommand() *cobra.Command {
	var cfg upConfig
	c := &cobra.Command{
		Use:   "up --dir DIR [--shards N] [-- flags of every node]",
		Short: "Start a network, one node a shard, and stay until Ctrl-C ends it",
		Long: "Start a network, or the one that DIR holds already, one node a shard, and stay until Ctrl-C (or SIGTERM,\nor \"down\") ends it: no node outlives it, not even when it is killed. With --detach it returns when every node answers.\n" +
			"DIR/network.json says what runs where.",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(cfg.Dir)
			if err != nil {
				return err
			}
			if cfg.Shards < 1 {
				return errors.New("--shards must be 1 or more")
			}
			cfg.Dir, cfg.Args = dir, args
			return up(cfg, cmd.OutOrStdout(), interrupts())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Dir, "dir", "", "the network's folder")
	f.IntVar(&cfg.Shards, "shards", 2, "how many")
	f.IntVar(&cfg.Port, "base-port", 0, "port of shard 0; shard N has two more each; 0 takes free ones")
	f.BoolVar(&cfg.Detach, "detach", false, "return when every node answers; \"down\" ends them")
	f.DurationVar(&cfg.Wait, "wait", 30*time.Second, "how long a node may take to answer")
	c.MarkFlagRequired("dir")
	return c
}

func downCommand() *cobra.Command {
	var dir string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "down --dir DIR",
		Short: "End every node of a network, and the \"up\" that it runs in",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			return down(dir, timeout)
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the network's folder")
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "after SIGTERM; then SIGKILL")
	c.MarkFlagRequired("dir")
	return c
}

func keepCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "keep --dir DIR NODE", Short: "A node's parent; \"ctl start\" starts it", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return keep(dir, args[0]) },
	}
	c.Flags().StringVar(&dir, "dir", "", "the network's folder")
	return c
}

func checkCommand() *cobra.Command {
	var db, against string
	var height uint64
	var readOnly bool
	c := &cobra.Command{
		Use:   "check --datadir DB [--against DB2 [--height H]]",
		Short: "Open a database, read every key, walk the chain to the genesis block; exit 1 if it is not whole",
		Long: "Open a database (a real copy!) as a node does, read every key, walk the chain from the head to the genesis block\nand compute every hash anew. With --against, all canonical blocks up to --height (the lower head) must be the same in DB2.\n" +
			"Prints counts as JSON; exit 0 or 1.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := checkDatabase(db, against, height, readOnly)
			if err := printJSON(cmd.OutOrStdout(), r); err != nil || r.OK {
				return err
			}
			return exitCode(1)
		},
	}
	f := c.Flags()
	f.StringVar(&db, "datadir", "", "the database: …/harmony_db_0")
	f.StringVar(&against, "against", "", "another database, which no process has open")
	f.Uint64Var(&height, "height", 0, "compare up to this block; 0 is the lower of the two heads")
	f.BoolVar(&readOnly, "read-only", false, "do not write to it, so that hard links are allowed")
	c.MarkFlagRequired("datadir")
	return c
}

func fillCommand() *cobra.Command {
	var cfg fillConfig
	c := &cobra.Command{
		Use:   "fill --datadir DB --blocks N --bytes B",
		Short: "Make a database of a given size quickly",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Blocks < 1 || cfg.Bytes < 0 || cfg.TableSize < 1<<10 {
				return errors.New("--blocks must be 1 or more, --bytes not negative, --table-size 1024 or more")
			}
			if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
				return fmt.Errorf("make the database's folder: %w", err)
			}
			height, err := fill(cfg)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), map[string]uint64{"height": height})
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Dir, "datadir", "", "the database: …/harmony_db_0; one that is there grows")
	f.Uint32Var(&cfg.Shard, "shard", 0, "the shard of its chain")
	f.Uint64Var(&cfg.Blocks, "blocks", 100, "how many")
	f.Int64Var(&cfg.Bytes, "bytes", 16<<20, "how many in all")
	f.IntVar(&cfg.TableSize, "table-size", 2<<20, "size of a table, in bytes")
	f.IntVar(&cfg.LevelSize, "level-size", 0, "size of level 0, in bytes; level n holds 10^n times it (0: 10 MiB)")
	f.BoolVar(&cfg.Settle, "settle", false, "compact once and wait, so that later compactions leave most tables as they are")
	c.MarkFlagRequired("datadir")
	return c
}

func ctlCommand() *cobra.Command {
	var dir string
	var timeout, wait time.Duration
	var signal string
	c := &cobra.Command{
		Use:   "ctl --dir DIR stop|start|restart|status|behave NODE",
		Short: "What a configured stop or start command calls where there is no systemd",
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			dir, err = filepath.Abs(dir)
			return err
		},
	}
	c.PersistentFlags().StringVar(&dir, "dir", "", "the network's folder")
	c.MarkPersistentFlagRequired("dir")
	stop := func(cmd *cobra.Command, args []string) error {
		s := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(signal), "SIG"))
		if s == 0 {
			return fmt.Errorf("there is no signal %q", signal)
		}
		e, err := stopNode(dir, args[0], s, timeout)
		if err != nil {
			return err
		}
		return printJSON(cmd.OutOrStdout(), e)
	}
	start := func(cmd *cobra.Command, args []string) error {
		already, err := startNode(dir, args[0], wait)
		if err == nil && already {
			fmt.Fprintln(cmd.OutOrStdout(), args[0], "runs already")
		}
		return err
	}
	stopping := func(c *cobra.Command) *cobra.Command {
		c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long it may take to end; then exit 1, and it is not killed")
		c.Flags().StringVar(&signal, "signal", "TERM", "TERM, INT or KILL")
		return c
	}
	starting := func(c *cobra.Command) *cobra.Command {
		c.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long it may take to answer; 0 does not wait")
		return c
	}
	c.AddCommand(
		stopping(&cobra.Command{Use: "stop NODE", Short: "Send SIGTERM, wait until it is gone, print how it ended (also in DIR/NODE/exit.json); exit 0 whatever its exit", Args: cobra.ExactArgs(1), RunE: stop}),
		starting(&cobra.Command{Use: "start NODE", Short: "Start it, detached, and wait until it answers; nothing when it runs; exit 1 when it dies first", Args: cobra.ExactArgs(1), RunE: start}),
		starting(stopping(&cobra.Command{Use: "restart NODE", Short: "stop, then start", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			if err := stop(cmd, args); err != nil {
				return err
			}
			return start(cmd, args)
		}})),
		&cobra.Command{Use: "status [NODE]", Short: "Print as JSON what runs; exit 3 when one does not", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			return status(cmd, dir, args)
		}},
		&cobra.Command{Use: "behave NODE NAME=once|always|never[:ARG]…", Short: "Tell it to misbehave", Long: behaveDoc(), Args: cobra.MinimumNArgs(2), RunE: func(_ *cobra.Command, args []string) error {
			return behaveNode(dir, args)
		}},
	)
	return c
}

func status(cmd *cobra.Command, dir string, args []string) error {
	n, err := readNetwork(dir)
	if err != nil {
		return err
	}
	if len(args) == 1 {
		m, err := n.find(args[0])
		if err != nil {
			return err
		}
		n.Nodes = []member{m}
	}
	all, up := []state{}, true
	for _, m := range n.Nodes {
		s := nodeState(dir, m)
		all, up = append(all, s), up && s.Running
	}
	if err := printJSON(cmd.OutOrStdout(), all); err != nil || up {
		return err
	}
	return exitCode(3)
}

func behaveNode(dir string, args []string) error {
	n, err := readNetwork(dir)
	if err != nil {
		return err
	}
	m, err := n.find(args[0])
	if err != nil {
		return err
	}
	pairs, err := parsePairs(args[1:])
	if err != nil {
		return err
	}
	return tell(m.DataDir, pairs)
}
