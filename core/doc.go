// Package core is the contract between snapfw and its plugins. Read it first.
//
// snapfw takes, checks, publishes and restores snapshots of blockchain nodes. It
// knows the order of the work and nothing about any chain or any storage. A
// [Chain] knows one kind of node and a [Sink] one kind of storage; both run
// outside of snapfw's process (package core/plugin serves and loads them).
//
// Four sentences decide most questions:
//
//   - Reading is a conversation, writing is a document: a Chain may look at a
//     node through a [Host] as often as it likes, and changes one only by
//     returning a [Plan], which snapfw writes down before it acts.
//   - Bytes never cross a plugin boundary: a Sink answers with a [Command] that
//     runs beside the data.
//   - A node that was stopped is started again, whatever dies: the [Step.Undo]
//     of a stop is owed from the moment before the stop begins.
//   - Nobody sees half a snapshot: what consumers read first is written last.
//
// Calls are stateless. What a call needs travels with it, so that a plugin that
// died is started again and asked again; there is no Init and no Close. An
// ability that not every plugin has is an optional interface ([Catalog],
// [Judge], [Importer], [Copier], [Purger], [Fronted]).
//
// This package imports the standard library only.
package core
