package ledger

// DiskUsage returns how many bytes the ledger takes on the disk, with what is to be
// compacted away; 0 once it is closed.
func (l *Ledger) DiskUsage() int64 {
	if l.begin() != nil {
		return 0
	}
	defer l.end()
	return int64(min(l.db.Metrics().DiskSpaceUsage(), 1<<62))
}
