// Package daemon is a store that a guix-daemon keeps: the client of its worker
// protocol, the one that "guix build" speaks.
//
// [Open] connects to the daemon's socket, /var/guix/daemon-socket/socket unless told
// otherwise, as this process's user; no rights beyond an ordinary user's are
// needed. Daemons of Guix 1.2 and later are understood (protocol 0x160 to 0x164).
//
// # Connections
//
// The daemon has a process for each connection, and does one thing at a time on it. A
// [Store] keeps a few for reuse. One is used by one call at a time and is closed, never
// reused, if a call was broken off: then nobody knows what the daemon would answer next.
// Closing is also the only way to interrupt the daemon. That is what the end of a context
// does: a build's processes are killed then.
//
// If an idle connection turns out to be dead, because the daemon was restarted, the call
// is made once more on a new one, unless the daemon had begun to answer.
//
// The daemon checks and makes signatures through a helper, "guix authenticate", which
// takes 50 ms or more to start and belongs to a connection. Connections that have one are
// warm; they are kept apart, and used for Import and Export. See [Store.Warm].
//
// The daemon protects items from garbage collection for a connection: every item that
// was added, imported or built through it, until it is closed. So no connection that
// protects something is kept for reuse for more than a few minutes. What has to be
// protected on purpose is the business of [Store.Lease].
//
// # What it will not do
//
// It does not retry, except as said; it does not start a daemon, and speaks to none on
// another machine. It cannot give away a right that the daemon does not give: an import
// needs an authorized signature, even by root.
package daemon
