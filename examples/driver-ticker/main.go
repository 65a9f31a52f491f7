// snapfw-ticker is a driver to learn from: it takes snapshots of node.sh. CONTRIBUTING.md walks through it.
package main

import "github.com/snapfw/snapfw/core/plugin"

func main() {
	plugin.ServeChain(driver{},
		plugin.Verb{Name: "look", Usage: "DIR  print whether the node runs, and its head", Run: look},
		plugin.Verb{Name: "stop", Usage: "DIR  stop the node and say whether it was clean", Run: stop},
		plugin.Verb{Name: "live", Usage: "DIR FILE  write the list of a stopped node's live files", Run: live})
}
