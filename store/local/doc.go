// Package local is the embedded store: it keeps items in a folder of its own and
// builds in namespaces of the kernel, for root or for an ordinary user, with
// nothing installed. It is for Linux.
//
// Items can be physically anywhere; a sandboxed build sees them in the logical
// store directory, such as /gnu/store. Open opens a store, making it if need be,
// and [Store] implements all the interfaces of package store. Signatures, hashes
// and references are checked before an item is visible.
//
// # The folder
//
//	version            the number of this format
//	store/NAME         items: HASH-NAME, or that or HASH with ~ and a random suffix
//	info/NAME.json     what is known of a valid item
//	roots/NAME         symlinks to items that must be kept, and what links elsewhere keep
//	leases/OWNER       the heartbeat of a process that uses the store
//	leases/OWNER.N     what one of its leases protects
//	tmp/OWNER.N/       its unfinished work
//	builds/OWNER.N/    a running build: its /tmp and its outputs
//	failed/NAME.drv-N  folders that failed builds were asked to keep
//	log/ab/REST.drv.gz the log of the last build of a derivation
//	trash/             what is being deleted
//	gc.lock            the process that collects garbage
//
// # Many processes, one store
//
// Any number of processes may use a store, on any number of nodes that share its
// file system; there is no server and no lock but the one that keeps two garbage
// collections apart. Every step that counts is a rename(2) or link(2), which are
// atomic on every file system, NFS included.
//
// An item is valid if and only if its info file exists. To publish an item, its
// contents are made under tmp/ or builds/, checked, and moved to store/NAME, or to
// a name with a random suffix if that is taken. The info file, which says where the
// contents are, is written under tmp/, everything is synced to the disk, and the
// file is linked to info/. If there is one by then, another process has published
// the same item, and what this one made is discarded. So whatever is visible
// is complete, even after a crash, and published data never changes.
//
// # Leases and garbage collection
//
// A process that needs an item first puts it into a lease, then asks whether it is
// valid. A collection that wants to delete an item first makes it invalid, then
// reads leases and roots again. In detail, it
//
//  1. reads roots, then leases, then info files, and finds what no root and no
//     lease needs;
//  2. condemns that, item by item, referrers first: moves each info file to trash/;
//  3. reads roots and leases again, then lists the info files again, and acquits
//     (moves back) whatever a root, a lease or an item that is valid now needs;
//  4. deletes the data of the rest. What can't be moved away becomes valid again.
//
// Suppose that an item is condemned while a process leases it. Either the lease was
// written before step 3 read the leases, and the item is acquitted; or it was written
// later, after the item was condemned, and the process finds the item invalid, since
// it asks after writing. In between, while the info file is in trash/, a process that
// asks waits for the verdict, so an item that will be acquitted does not even seem to
// vanish. If the collecting process has died, the first process to notice acquits
// all that it had condemned: nothing is deleted before its verdict.
//
// Suppose that a new item refers to a condemned one. Its process leased the reference
// before finding it valid, and holds that lease until the new item is published. So
// step 3 either sees the lease, or reads the leases after it ended, and then the listing
// that follows contains the new item. That is why the order in step 3 matters.
//
// Crashed processes and lost races leave data without an info file. A collection
// deletes it if it has not changed for an hour and no lease has its name: an hour is
// more than a process needs from moving data to linking its info file, and lease
// holders may use data that lost a race.
//
// Leases end with their process. On the same machine a process has ended when it is
// no longer there; on others, when it has not renewed its heartbeat, which it does
// twice a minute, for a quarter of an hour by the clock of the file system. A process
// that was stopped for longer must expect to have lost its leases.
//
// For NFS, names are looked up by opening them, since clients revalidate what they know
// of a file when they open it; leases reach the server before Add returns; and folders
// are changed before they are listed, so that no stale listing is used.
//
// # What it does not do
//
// Equal files are not deduplicated, signatures are not kept (the exporting store signs
// exports), and builds for other operating systems are refused. A build
// that two processes start at the same time is done twice, and the first result is
// kept; within one process the second waits for the first.
package local
