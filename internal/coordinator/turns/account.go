package turns

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/scheduler"
)

const (
	// maxShares is how many shares are remembered; of more, those that have used least are
	// forgotten, which is little to forget.
	maxShares = 1000
	// maxListed is how many shares people are shown.
	maxListed = 100
	// maxCounted is how many shares are counted under their own names; others count as otherShare.
	maxCounted = 64
	otherShare = "other"
	// forgotten is the use below which it is as if a share had used nothing.
	forgotten = time.Second
	// saveInterval is the least time between two records.
	saveInterval = time.Minute
)

// Account is what each share has used, holds and waits for. It belongs to one goroutine, which
// gives it the time; that must not be before the last one.
type Account struct {
	rules Rules
	// shares is what the scheduler goes by: who comes back after a while counts as having used no
	// less there than others. really is what was used.
	shares, really *scheduler.Shares
	held           map[string]int // slots, by share
	queued         map[string]int // builds that are ready, by share
	at             time.Time      // up to when held slots are in shares
	saved          time.Time
	// counted is the slot time in seconds since the start, by share; it never fades.
	counted map[string]float64
}

// New returns an account of which nobody has used anything.
func New(r Rules) *Account {
	a := &Account{held: make(map[string]int), queued: make(map[string]int), counted: make(map[string]float64)}
	a.use(r, nil, nil, time.Time{})
	return a
}

// use replaces the rules, what shares count for, and what they have used.
func (a *Account) use(r Rules, counts, used map[string]time.Duration, now time.Time) {
	a.rules = r
	a.shares = scheduler.NewShares(r.HalfLife, func(share string) float64 { return a.rules.weight(share) })
	a.really = scheduler.NewShares(r.HalfLife, nil)
	for share, slotTime := range counts {
		a.shares.Use(share, slotTime, now)
	}
	for share, slotTime := range used {
		a.really.Use(share, slotTime, now)
	}
}

// worth returns what each share has used that is worth remembering.
func worth(shares *scheduler.Shares, now time.Time) map[string]time.Duration {
	used := make(map[string]time.Duration)
	for _, share := range shares.Names() {
		if d := shares.Used(share, now); d >= forgotten {
			used[share] = d
		}
	}
	if len(used) <= maxShares {
		return used
	}
	names := slices.SortedFunc(maps.Keys(used), func(x, y string) int { return cmp.Or(cmp.Compare(used[y], used[x]), cmp.Compare(x, y)) })
	for _, share := range names[maxShares:] {
		delete(used, share)
	}
	return used
}

// SetRules replaces the rules; what was used stays. It reports whether builds may count for others now.
func (a *Account) SetRules(r Rules, now time.Time) (others bool) {
	a.Advance(now)
	others = cmp.Or(r.By, ByUser) != cmp.Or(a.rules.By, ByUser)
	a.use(r, worth(a.shares, now), worth(a.really, now), now)
	return others
}

// Of is [Rules.Of], as the list of one that [Union] takes.
func (a *Account) Of(b *api.Build) []string { return []string{a.rules.Of(b)} }

// Shares returns what the scheduler needs to know; nil if nobody is told apart. It is good until
// the account changes.
func (a *Account) Shares() *scheduler.Shares {
	if a.rules.By == ByNone {
		return nil
	}
	return a.shares
}

// Outlook returns what a forecast needs to know: the weights, nil if nobody is told apart, and what each
// has used. It is good when the account has changed, too.
func (a *Account) Outlook(now time.Time) (weight func(share string) float64, used map[string]time.Duration) {
	if a.rules.By == ByNone {
		return nil, nil
	}
	rules := a.rules
	return rules.weight, worth(a.shares, now)
}

// Served returns the one of several shares that has been served least: a build that several
// want counts for that one, at the time when it is asked. None stands for nobody's.
func (a *Account) Served(least []string, now time.Time) string {
	switch {
	case a.rules.By == ByNone || len(least) == 0:
		return ""
	case len(least) == 1:
		return least[0]
	}
	return slices.MinFunc(least, func(x, y string) int { return cmp.Compare(a.served(x, now), a.served(y, now)) })
}

// served is what a share counts for, for its weight.
func (a *Account) served(share string, now time.Time) float64 {
	return a.shares.Used(share, now).Seconds() / a.rules.weight(share)
}

// ---- as time passes ------------------------------------------------------------------------

// Advance charges the slots that are held for the time since the last call.
func (a *Account) Advance(now time.Time) {
	passed := now.Sub(a.at)
	a.at = now
	if passed <= 0 || len(a.held) == 0 {
		return
	}
	for share, slots := range a.held {
		slotTime := time.Duration(slots) * passed
		a.shares.Use(share, slotTime, now)
		a.really.Use(share, slotTime, now)
		a.counted[a.countedAs(share)] += slotTime.Seconds()
	}
}

// countedAs is the name under which a share is counted: its own, if it was among the first.
func (a *Account) countedAs(share string) string {
	if _, known := a.counted[share]; known {
		return share
	}
	if len(a.counted) >= maxCounted {
		return otherShare
	}
	a.counted[share] = 0
	return share
}

// Hold notes that a build of a share takes slots, or gives them back if there are fewer than 0.
func (a *Account) Hold(share string, slots int, now time.Time) {
	a.Advance(now)
	add(a.held, share, slots)
}

// Wait notes that builds of a share have become ready, or are no longer, if there are fewer than 0.
func (a *Account) Wait(share string, builds int) { add(a.queued, share, builds) }

func add(counts map[string]int, share string, n int) {
	if counts[share] += n; counts[share] == 0 {
		delete(counts, share)
	}
}

// ---- over restarts -------------------------------------------------------------------------

// setting is the name of the ledger's setting that says what shares have used.
const setting = "shares"

// record is what is kept of an account.
type record struct {
	Time   time.Time              `json:"time"`
	Used   map[string]api.Seconds `json:"used"`   // slot time
	Counts map[string]api.Seconds `json:"counts"` // as what the scheduler counts it
}

// Save returns what the ledger is to keep, or nil if what it has will do; last says that there is
// no later call. What nobody misses is dropped.
func (a *Account) Save(now time.Time, last bool) *ledger.Setting {
	if !last && now.Sub(a.saved) < saveInterval {
		return nil
	}
	a.Advance(now)
	a.saved = now
	counts, used := worth(a.shares, now), worth(a.really, now)
	if len(a.really.Names()) > maxShares {
		a.use(a.rules, counts, used, now)
	}
	if len(counts) == 0 { // what the ledger has fades by itself
		return nil
	}
	return &ledger.Setting{Name: setting, Value: record{now, seconds(used), seconds(counts)}}
}

func seconds(of map[string]time.Duration) map[string]api.Seconds {
	list := make(map[string]api.Seconds, len(of))
	for share, d := range of {
		list[share] = api.Seconds(d.Seconds())
	}
	return list
}

// Recover goes on with what the ledger has. If that can't be used, all begin anew.
func (a *Account) Recover(ctx context.Context, from *ledger.Ledger, log *slog.Logger, now time.Time) error {
	var r record
	_, err := from.Setting(ctx, setting, &r)
	if errors.As(err, new(*ledger.RecordError)) {
		log.Warn("what shares have used can't be read; all begin anew", "err", err)
		return nil
	}
	at := r.Time
	if at.After(now) { // the clock was wrong then, or is now
		at = now
	}
	for to, from := range map[*scheduler.Shares]map[string]api.Seconds{a.really: r.Used, a.shares: r.Counts} {
		for share, s := range from {
			if s > 0 && s <= api.MaxTime && len(share) <= api.MaxName {
				to.Use(share, s.Duration(), at)
			}
		}
	}
	a.saved = now
	return err
}

// ---- for people ----------------------------------------------------------------------------

// List returns the shares that have builds now, or used something of late: first those that want
// more, the one whose turn it is first; at most 100. It is empty if nobody is told apart.
func (a *Account) List(now time.Time) []api.Share {
	if a.rules.By == ByNone {
		return nil
	}
	a.Advance(now)
	all := make(map[string]*api.Share)
	get := func(name string) *api.Share {
		if all[name] == nil {
			all[name] = &api.Share{Name: name, Weight: a.rules.weight(name), Used: api.Seconds(a.really.Used(name, now).Seconds())}
		}
		return all[name]
	}
	for name, n := range a.queued {
		get(name).Queued = n
	}
	for name, n := range a.held {
		get(name).Running = n
	}
	var weights float64
	var used api.Seconds
	for _, s := range all {
		weights += s.Weight
		used += s.Used
	}
	for _, s := range all {
		s.Part = s.Weight / weights
		s.Due = used * api.Seconds(s.Part)
	}
	for name := range worth(a.really, now) {
		get(name)
	}
	list := make([]api.Share, 0, len(all))
	for _, s := range all {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(x, y api.Share) int {
		return cmp.Or(
			-cmp.Compare(min(1, x.Queued), min(1, y.Queued)), -cmp.Compare(min(1, x.Running), min(1, y.Running)),
			cmp.Compare(a.served(x.Name, now), a.served(y.Name, now)), cmp.Compare(x.Name, y.Name))
	})
	return list[:min(len(list), maxListed)]
}

// Queue is what of a queue is before a build: how many of each share, and in which order shares
// of the same priority come first.
type Queue struct {
	before map[string]int
	order  []string
}

// Note notes that a build comes before, or is the one that is asked about.
func (q *Queue) Note(share string, before, samePriority bool) {
	if before {
		if q.before == nil {
			q.before = make(map[string]int)
		}
		q.before[share]++
	}
	if samePriority && !slices.Contains(q.order, share) {
		q.order = append(q.order, share)
	}
}

// Turns returns the shares that want more, if there are several: the one whose turn it is first.
func (a *Account) Turns(q *Queue, now time.Time) []api.Share {
	list := slices.DeleteFunc(a.List(now), func(s api.Share) bool { return s.Queued == 0 })
	if len(list) < 2 {
		return nil
	}
	place := func(s *api.Share) int {
		if i := slices.Index(q.order, s.Name); i >= 0 {
			return i
		}
		return len(q.order)
	}
	for i := range list {
		list[i].Before = q.before[list[i].Name]
	}
	slices.SortStableFunc(list, func(x, y api.Share) int { return cmp.Compare(place(&x), place(&y)) })
	return list
}

// Counted is what was counted of one share since the start.
type Counted struct {
	SlotSeconds     float64
	Used            float64 // slot time in seconds, what is long ago counting less
	Queued, Running int
}

// Counts returns what was counted, of at most 64 shares and all others together.
func (a *Account) Counts(now time.Time) map[string]Counted {
	a.Advance(now)
	counts := make(map[string]Counted)
	note := func(share string, f func(c *Counted)) {
		name := a.countedAs(share)
		c := counts[name]
		f(&c)
		counts[name] = c
	}
	for share, n := range a.queued {
		note(share, func(c *Counted) { c.Queued += n })
	}
	for share, n := range a.held {
		note(share, func(c *Counted) { c.Running += n })
	}
	for share, used := range worth(a.really, now) {
		note(share, func(c *Counted) { c.Used += used.Seconds() })
	}
	for share, seconds := range a.counted {
		note(share, func(c *Counted) { c.SlotSeconds = seconds })
	}
	return counts
}
