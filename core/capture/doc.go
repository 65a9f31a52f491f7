// Package capture takes a copy of a database whose node stands still, in a moment and
// whatever its size: hard links or clones of the files that never change again, real copies of
// the few that do. Only where neither can be had are all bytes copied, most of them
// beforehand while the node runs.
//
// What never changes is not for this package to guess. The store's own manifest says it, and a
// driver writes it down as a live list (see [Item]) once the node has stopped; what the list
// does not name is not captured.
//
// # Method
//
// [Auto] tries, in this order, and records what it took:
//
//   - clone (FICLONE: xfs with reflink, btrfs). It costs two or three times what a link does,
//     tens of microseconds a file, and shares no inode with the node: nothing that the node does
//     later can reach it. Where that is too slow there is --method link.
//   - link. It shares inodes with the running node. So nothing here ever writes to, chmods,
//     chowns or sets times on a linked file, no program that could may open it, and [Seal] refuses
//     a link whose size or time is not what [Take] saw.
//   - copy. [Warm] copies while the node runs, [Take] what changed since.
//
// # Where it lies
//
// The copy of PARENT/NAME lies in PARENT/.snapfw/NAME (see [Dir]), so that it is on the
// same mount wherever that can be:
//
//	data/           the copy: whole, or not there
//	captured.json   a Captured: what data/ is
//	files-N.jsonl   how each file of it came to be there; named by captured.json
//	entries.jsonl   by Seal: one core.Entry a line, sorted by name
//	sums.jsonl      by Seal, where no other file is named: what was hashed before
//	data.warm/, warm.jsonl   by Warm, until the next Take
//	data.new/, new.json      a copy in the making
//	trash-N/        what a later verb removes; removing takes long, and the node waits
//
// # Whole or not there
//
// Take makes data.new and exchanges it with data by one rename. captured.json names
// the inode of the data directory it describes, so whoever comes after a death in between can
// tell which of the two descriptions holds, and puts the other away. Take does not wait for
// the disk, because the node is down: Seal does. A copy that was not sealed before its machine
// was started anew is refused.
package capture
