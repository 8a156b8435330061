package hooks

import (
	"container/heap"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
)

// number identifies a run of a hook and gives its place in the order: twice the number
// of the event, and one more for the second name of that event.
type number uint64

func numberOf(seq uint64, part int) number { return number(seq<<1 | uint64(part)) } // #nosec G115 -- part is 0 or 1

func (n number) seq() uint64 { return uint64(n >> 1) }

// key sorts as the numbers do.
func (n number) key() string { return fmt.Sprintf("%016x", uint64(n)) }

func parseKey(key string) (number, error) {
	n, err := strconv.ParseUint(key, 16, 64)
	return number(n), err
}

// String is how people name a run of a hook: by the number of the event.
func (n number) String() string {
	if n&1 == 1 {
		return fmt.Sprintf("%d.2", n.seq())
	}
	return strconv.FormatUint(n.seq(), 10)
}

func parseNumber(s string) (number, error) {
	s, second := strings.CutSuffix(s, ".2")
	seq, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, err
	}
	if second {
		return numberOf(seq, 1), nil
	}
	return numberOf(seq, 0), nil
}

// record is a run in the ledger.
type record struct {
	Name  string    `json:"name"` // of the event
	Event api.Event `json:"event"`
	Tries int       `json:"tries,omitempty"` // that failed
	Next  time.Time `json:"next,omitzero"`
	Error string    `json:"error,omitempty"`
	// Output is that of the last try, of a run that is tried again.
	Output string `json:"output,omitempty"`
	// Detail says that there is a detail under the same key.
	Detail bool `json:"detail,omitempty"`
}

// detail is what is kept of some of the parked runs.
type detail struct {
	Output string     `json:"output,omitempty"`
	Build  *api.Build `json:"build,omitempty"` // the ledger may forget it meanwhile
}

// Where the ledger has things: PREFIX NAME for the cursor of a hook, and PREFIX NAME
// "/" key for what belongs to its runs.
const (
	cursorPrefix = "hooks/cursor/"
	runPrefix    = "hooks/run/"    // a record: to be carried out, in memory too
	againPrefix  = "hooks/again/"  // a record: was parked, and is to be carried out
	parkedPrefix = "hooks/parked/" // a record
	detailPrefix = "hooks/detail/" // a detail
)

var runPrefixes = []string{runPrefix, againPrefix, parkedPrefix, detailPrefix}

// subject is what must be in order: a build, or a machine.
func subject(ev *api.Event) string {
	if ev.Build != "" {
		return ev.Build
	}
	return "machine " + ev.Machine
}

// run is a record in memory, without what is long.
type run struct {
	number  number
	name    string
	build   string
	machine string
	since   time.Time // of the event
	tries   int
	next    time.Time // when it is due
	err     string    // of the last try
	line    *line
	index   int // in the heap; -1 if it is not there
	running bool
	// called is set when a person wants the next try at once.
	called bool
}

func newRun(n number, rec *record) *run {
	return &run{
		number: n, name: rec.Name, build: rec.Event.Build, machine: rec.Event.Machine, since: rec.Event.Time,
		tries: rec.Tries, next: rec.Next, err: rec.Error, index: -1,
	}
}

// line has the runs of one subject. The first is running or due; the others wait.
type line struct {
	subject string
	runs    []*run
}

// dueHeap has the first run of each line that is not running, the one that is due
// first in front.
type dueHeap []*run

func (d dueHeap) Len() int { return len(d) }

func (d dueHeap) Less(i, j int) bool {
	if c := d[i].next.Compare(d[j].next); c != 0 {
		return c < 0
	}
	return d[i].number < d[j].number
}

func (d dueHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

func (d *dueHeap) Push(x any) {
	r := x.(*run)
	r.index = len(*d)
	*d = append(*d, r)
}

func (d *dueHeap) Pop() any {
	last := len(*d) - 1
	r := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	r.index = -1
	return r
}

// window has the runs of a hook that are in memory. Its owner guards it.
type window struct {
	runs  map[number]*run
	lines map[string]*line
	due   dueHeap
}

func newWindow() *window {
	return &window{runs: make(map[number]*run), lines: make(map[string]*line)}
}

// add puts a run at the end of its line.
func (w *window) add(r *run, subject string) {
	l := w.lines[subject]
	if l == nil {
		l = &line{subject: subject}
		w.lines[subject] = l
	}
	r.line = l
	l.runs = append(l.runs, r)
	w.runs[r.number] = r
	if len(l.runs) == 1 {
		heap.Push(&w.due, r)
	}
}

// start takes the first run that is due, or says when the next one will be; both nil
// and zero mean that there is none.
func (w *window) start(now time.Time) (r *run, wait time.Duration) {
	if len(w.due) == 0 {
		return nil, 0
	}
	if wait := w.due[0].next.Sub(now); wait > 0 {
		return nil, wait
	}
	r = heap.Pop(&w.due).(*run)
	r.running = true
	return r, 0
}

// again puts a run back that was started, to be tried again later.
func (w *window) again(r *run, next time.Time) {
	r.running, r.next = false, next
	heap.Push(&w.due, r)
}

// hurry makes a run that waits for its next try due now.
func (w *window) hurry(r *run, now time.Time) {
	r.next = now
	if r.index >= 0 {
		heap.Fix(&w.due, r.index)
	}
}

// remove takes a run out; the next one of its line becomes due.
func (w *window) remove(r *run) {
	delete(w.runs, r.number)
	if r.index >= 0 {
		heap.Remove(&w.due, r.index)
	}
	l := r.line
	for i, other := range l.runs {
		if other != r {
			continue
		}
		copy(l.runs[i:], l.runs[i+1:])
		l.runs[len(l.runs)-1] = nil
		l.runs = l.runs[:len(l.runs)-1]
		if len(l.runs) == 0 {
			delete(w.lines, l.subject)
		} else if i == 0 {
			heap.Push(&w.due, l.runs[0])
		}
		return
	}
}

// first returns the least number in the window.
func (w *window) first() (number, bool) {
	least, found := number(0), false
	for n := range w.runs {
		if !found || n < least {
			least, found = n, true
		}
	}
	return least, found
}
