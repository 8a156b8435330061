package tally

import "time"

// maxLooked is how much work is added up at most; the rest is taken to be like it.
const maxLooked = 10_000

// Left is the work that is left, by system. It has looked at nothing yet if it has only its Counts.
type Left struct {
	Counts *Counts
	looked int
	work   map[string]*work
}

// work is that of one system, as the time that it takes at speed 1.
type work struct{ all, path time.Duration }

// Look is called before each piece of work, and reports whether to go on.
func (f *Left) Look() bool {
	f.looked++
	return f.looked <= maxLooked
}

// Add adds a piece of work, which takes a time and has gone on for some of that, if it has begun. path is how long it
// and what comes after it take.
func (f *Left) Add(system string, takes, ran, path time.Duration) {
	system = f.Counts.System(system)
	if f.work == nil {
		f.work = make(map[string]*work)
	}
	w := f.work[system]
	if w == nil {
		w = &work{}
		f.work[system] = w
	}
	w.path = max(w.path, path)
	w.all += max(0, takes-ran)
}

// Takes says how long machines need for the work of a system, which build as much as so many of speed 1, the fastest of
// them at a speed; 0 if there is none, or no work. pieces is of how many what was looked at are a part.
func (f *Left) Takes(system string, pieces int, speeds, fastest float64) time.Duration {
	w := f.work[system]
	if w == nil || speeds <= 0 {
		return 0
	}
	all := float64(w.all)
	if pieces > maxLooked {
		all *= float64(pieces) / maxLooked
	}
	return time.Duration(max(all/speeds, float64(w.path)/fastest))
}
