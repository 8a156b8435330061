// Package watch follows builds to their end and shows them meanwhile, across restarts of the
// coordinator: starts, outcomes, the end of the log of what failed. An interrupt, or a failure,
// cancels the rest.
package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/store"
)

// Client is what watching builds needs of the coordinator.
type Client interface {
	Build(ctx context.Context, id string) (*api.Build, error)
	Cancel(ctx context.Context, ids ...string) error
	Status(ctx context.Context) (*api.Status, error)
	Why(ctx context.Context, id string) (*api.Why, error)
	Outlook(ctx context.Context, s *api.Selection) (*api.Outlook, error)
	// LogTail returns at most that many bytes from the end of a build's log.
	LogTail(ctx context.Context, id string, bytes int64) ([]byte, error)
	// Follow calls fn for each event from number from on, until the context ends,
	// fn returns an error or the coordinator is gone; only of the named builds if any are.
	Follow(ctx context.Context, from uint64, fn func(*api.Event) error, builds ...string) error
}

// How a watched build is shown.
const (
	pollInterval = 200 * time.Millisecond
	outlookEvery = time.Second
	failedLines  = 12       // of a failed build's log
	failedBytes  = 16 << 10 // read from the log's end for them
	foldedLines  = 400      // of it where they can be folded away, but for failedLines
	foldedBytes  = 64 << 10
	// beatEvery is after how long in which nothing was shown it is said that builds go on, where nothing is drawn.
	beatEvery   = 30 * time.Second
	beatTimeout = 3 * time.Second // for the coordinator to say until when
)

// Options say what is watched, and how.
type Options struct {
	Client Client
	Next   uint64        // number of the first event that may be news of the builds
	Show   *display.Live // closed at the end
	Style  display.Style // of what is shown
	// Signals cancel the builds with the first one, and leave with the second. Resized
	// tells of a terminal that changed its size. Both may be nil.
	Signals, Resized <-chan os.Signal
	// KeepGoing says that after a failure the other builds go on.
	KeepGoing bool
	// OnlyLooks says that the builds are not the caller's: nothing cancels them, an interrupt
	// leaves, and that one has succeeded before is not told.
	OnlyLooks bool
	// NoMachineWithin is for how long no machine may be there for a build, until it is given up; 0 is
	// forever. One that is only busy is there.
	NoMachineWithin time.Duration
	// Patience is how long a coordinator that went away may take to come back: its builds go on.
	Patience time.Duration
}

// Watcher watches the builds that a client waits for.
type Watcher struct {
	Options
	model *display.Model

	reported    map[string]bool     // builds whose outcome was shown, or counted with another's
	failed      map[store.Path]bool // derivations of which it was shown that they failed
	last        string              // the build whose failure was shown last, if nothing was shown after that
	started     map[string]int      // attempt of each build whose start was shown
	stuck       map[string]*stuck   // by kind of builds
	shown       time.Time           // when a line was shown last
	noMachine   bool
	interrupted bool
	canceled    bool // the other builds were canceled, for whatever reason
}

// New makes a watcher of builds that were asked for.
func New(o Options, builds []*api.Build) *Watcher {
	w := &Watcher{Options: o, model: display.NewModel(time.Now()), reported: make(map[string]bool), started: make(map[string]int), failed: make(map[store.Path]bool), stuck: make(map[string]*stuck), shown: time.Now()}
	for _, b := range builds {
		w.model.Want(b, time.Now())
		w.reported[b.ID] = o.OnlyLooks && b.State == api.Succeeded
	}
	return w
}

// Builds returns the builds that were asked for, as far as they are known.
func (w *Watcher) Builds() []*api.Build { return w.model.Wanted() }

// Summary returns a line that says what became of all builds.
func (w *Watcher) Summary() string { return w.model.Summary(time.Now()) }

// Failures returns lines that say which builds failed themselves, why, and how many were not made
// because of each; none if that was just shown.
func (w *Watcher) Failures() []string {
	return w.model.Failures(w.last, w.Style)
}

// Run returns when all builds that were asked for are final. It returns command.ErrInterrupted
// if the person interrupted it, and then perhaps before they are; an error with
// command.ExitNoAnswer if the coordinator stays away.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.Show.Close()
	ctx, cancel := context.WithCancel(ctx)
	follower := w.follow(ctx)
	poller := w.poll(ctx)
	defer func() {
		cancel()
		for range follower {
		}
		for range poller {
		}
	}()
	ticks := time.NewTicker(display.FrameInterval)
	defer ticks.Stop()
	looks := time.NewTimer(firstLook)
	defer looks.Stop()
	beats := time.NewTimer(beatEvery)
	defer beats.Stop()
	if w.Show.Drawn() {
		beats.Stop()
	}

	for _, b := range w.model.Wanted() {
		if err := w.settle(ctx, b.ID); err != nil {
			return err
		}
	}
	for !w.model.Done() {
		var err error
		select {
		case u, ok := <-follower:
			if !ok {
				return context.Cause(ctx)
			}
			err = w.update(ctx, u)
		case status, ok := <-poller:
			if !ok {
				return context.Cause(ctx)
			}
			w.model.SetStatus(status.Status)
			if status.outlook != nil {
				w.model.SetOutlook(status.outlook)
			}
		case <-ticks.C:
			w.frame()
		case <-looks.C:
			err = w.look(ctx)
			looks.Reset(lookEvery)
			if w.NoMachineWithin > 0 {
				looks.Reset(min(lookEvery, max(firstLook, w.NoMachineWithin/4)))
			}
		case <-beats.C:
			w.beat(ctx)
			beats.Reset(beatEvery - time.Since(w.shown))
		case <-w.Resized:
			w.frame()
		case <-w.Signals:
			err = w.interrupt(ctx)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	if w.interrupted {
		return command.ErrInterrupted
	}
	return nil
}

// lines shows lines that stay.
func (w *Watcher) lines(text ...string) {
	w.Show.Lines(text...)
	w.shown = time.Now()
}

// beat says that builds go on, and which, if nothing was said for long.
func (w *Watcher) beat(ctx context.Context) {
	if time.Since(w.shown) < beatEvery {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	var open api.Selection
	for _, b := range w.model.Wanted() {
		if !b.State.Final() {
			open.IDs = append(open.IDs, b.ID)
		}
	}
	// An older coordinator can't say, and one that is away says nothing.
	if o, err := w.Client.Outlook(ctx, &open); err == nil {
		w.model.SetOutlook(o)
	}
	w.lines(w.model.Beat(time.Now()))
}

func (w *Watcher) frame() {
	w.Show.Frame(func(width, height int) []string { return w.model.Lines(time.Now(), width, height, w.Style) })
}

// followed is what the following goroutine reports: an event, or that the
// coordinator was lost, is back (nothing is set), or stays lost (final says how).
type followed struct {
	event *api.Event
	lost  bool
	final error
}

// follow starts a goroutine that reports events, over as many connections as it
// takes. It ends with ctx, and closes the channel.
func (w *Watcher) follow(ctx context.Context) <-chan followed {
	updates := make(chan followed)
	send := func(u followed) error {
		select {
		case updates <- u:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	next := w.Next
	go func() {
		defer close(updates)
		for {
			err := w.Client.Follow(ctx, next, func(ev *api.Event) error {
				next = ev.Seq + 1
				return send(followed{event: ev})
			})
			if ctx.Err() != nil || send(followed{lost: true}) != nil {
				return
			}
			if err := w.awaitCoordinator(ctx, err); err != nil {
				send(followed{final: err}) //nolint:errcheck // fails only where nobody listens any more
				return
			}
			if send(followed{}) != nil {
				return
			}
		}
	}()
	return updates
}

// awaitCoordinator returns when a coordinator answers again, after one failed with err.
func (w *Watcher) awaitCoordinator(ctx context.Context, err error) error {
	var outage apiclient.Outage
	for {
		if err := outage.Wait(ctx, w.Patience, err); err != nil {
			return err
		}
		if _, err = w.Client.Status(ctx); err == nil {
			return nil
		}
	}
}

// polled is the coordinator's status, and now and then when the builds will be done.
type polled struct {
	*api.Status
	outlook *api.Outlook // nil if that was not asked
}

// poll starts a goroutine that reports the coordinator's status where there is a
// display to show it on. It ends with ctx, and closes the channel.
func (w *Watcher) poll(ctx context.Context) <-chan polled {
	statuses := make(chan polled)
	var ours api.Selection
	for _, b := range w.model.Wanted() {
		ours.IDs = append(ours.IDs, b.ID)
	}
	go func() {
		defer close(statuses)
		if !w.Show.Drawn() {
			<-ctx.Done()
			return
		}
		ticks := time.NewTicker(pollInterval)
		defer ticks.Stop()
		for n := 0; ; n++ {
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
			status, err := w.Client.Status(ctx)
			if err != nil {
				continue // follow reports it
			}
			p := polled{Status: status}
			if n%int(outlookEvery/pollInterval) == 0 && len(ours.IDs) > 0 {
				// An older coordinator can't say.
				p.outlook, _ = w.Client.Outlook(ctx, &ours)
			}
			select {
			case statuses <- p:
			case <-ctx.Done():
				return
			}
		}
	}()
	return statuses
}

func (w *Watcher) update(ctx context.Context, u followed) error {
	switch {
	case u.final != nil:
		return command.Exit(command.ExitNoAnswer, fmt.Errorf("the coordinator went away and did not come back (%w); its builds go on when it is started again: see lighter builds list", u.final))
	case u.lost:
		w.model.SetNote("the coordinator went away; waiting for it to come back")
		w.lines("the coordinator went away; waiting for it to come back")
		return nil
	case u.event == nil:
		w.model.SetNote("")
		w.lines("the coordinator is back")
		return w.refresh(ctx)
	}
	return w.event(ctx, u.event)
}

// refresh reads the wanted builds again, so that nothing is waited for that
// happened while nobody watched.
func (w *Watcher) refresh(ctx context.Context) error {
	for _, old := range w.model.Wanted() {
		if old.State.Final() {
			continue
		}
		// An error says that it is gone again; follow will say so too.
		if b, err := w.Client.Build(ctx, old.ID); err == nil {
			w.model.Put(b, time.Now())
			if err := w.settle(ctx, b.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Watcher) event(ctx context.Context, ev *api.Event) error {
	if ev.Build == "" || ev.State == "" {
		return nil
	}
	w.learn(ctx, ev.Build)
	if !w.model.Has(ev.Build) {
		return nil
	}
	w.model.Apply(ev)
	if (!w.Show.Drawn() || ev.Attempt > 1) && ev.State == api.Building && !w.reported[ev.Build] && w.started[ev.Build] < ev.Attempt {
		w.started[ev.Build], w.last = ev.Attempt, ""
		w.lines(display.Start(w.model.Build(ev.Build), ev, w.model.LastFailure(ev.Build)))
	}
	return w.settle(ctx, ev.Build)
}

// maxParents bounds how far the chain of a build's parents is followed.
const maxParents = 1000

// learn makes a build, and those that it was made for, known to the model.
func (w *Watcher) learn(ctx context.Context, id string) {
	var chain []*api.Build
	for len(chain) < maxParents && id != "" && !w.model.Knows(id) {
		b, err := w.Client.Build(ctx, id)
		if err != nil {
			break
		}
		chain = append(chain, b)
		id = b.Parent
	}
	for _, b := range slices.Backward(chain) {
		w.model.Put(b, time.Now())
	}
}

// settle shows how a build ended, if it has and that was not shown yet.
func (w *Watcher) settle(ctx context.Context, id string) error {
	b := w.model.Build(id)
	if !b.State.Final() || w.reported[id] {
		return nil
	}
	w.reported[id] = true
	// The event has no sizes and times.
	if full, err := w.Client.Build(ctx, id); err == nil {
		w.model.Put(full, time.Now())
		b = w.model.Build(id)
	}
	w.outcome(ctx, b)
	if b.State == api.Succeeded || w.KeepGoing || w.OnlyLooks || w.canceled || !w.model.Asked(id) {
		return nil
	}
	return w.cancelRest(ctx)
}

// outcome shows how a build ended. What was not made because of a failure that was shown is
// counted there.
func (w *Watcher) outcome(ctx context.Context, b *api.Build) {
	if b.State == api.DependencyFailed && b.Failure != nil {
		if w.failed[b.Failure.Input] {
			return
		}
		w.failed[b.Failure.Input] = true // by another's build
	}
	w.lines(display.Outcome(b, w.Style))
	w.last = ""
	var text []string
	if b.State.FailedItself() {
		w.failed[b.Derivation], w.last = true, b.ID
		if ownFailure(b) {
			text = w.logTail(ctx, b)
		}
		if f := b.Failure; f != nil && f.KeptIn != "" {
			text = append(text, display.Kept(f))
		}
		if b.Dependents > 0 {
			text = append(text, "          "+display.NeededBy(b.Dependents))
		}
	}
	w.lines(text...)
}

// ownFailure reports whether the build failed by itself, so that its log says why. Where
// machines made different things, no log does.
func ownFailure(b *api.Build) bool {
	if b.Check > 0 && !slices.ContainsFunc(b.Results, func(r api.CheckResult) bool { return r.Failure != nil }) {
		return false
	}
	return b.State.FailedItself()
}

// logTail returns the last lines of a log. Those before them are shown, where they are folded away.
func (w *Watcher) logTail(ctx context.Context, b *api.Build) []string {
	size, most := int64(failedBytes), failedLines
	if w.Show.CanFold() {
		size, most = foldedBytes, foldedLines
	}
	log, err := w.Client.LogTail(ctx, b.ID, size)
	if err != nil || len(log) == 0 {
		return []string{"          lighter builds show " + b.ID}
	}
	// The first line may have been cut.
	if int64(len(log)) == size {
		_, rest, _ := strings.Cut(string(log), "\n")
		log = []byte(rest)
	}
	lines := display.LogTail(log, most)
	if before := len(lines) - failedLines; before > 0 {
		title := fmt.Sprintf("log of %s: %s before its last %d", display.Name(b), human.Count(before, "line"), failedLines)
		w.Show.Fold("lighter-"+display.ShortID(b.ID), human.Printable(title), lines[:before], time.Now())
		lines = lines[before:]
	}
	return append(lines, "          the whole log: lighter builds log "+b.ID)
}

// cancelRest cancels what is not final of the wanted builds.
func (w *Watcher) cancelRest(ctx context.Context) error {
	w.canceled = true
	var ids []string
	for _, b := range w.model.Wanted() {
		if !b.State.Final() {
			ids = append(ids, b.ID)
		}
	}
	for part := range slices.Chunk(ids, api.MaxSubmit) {
		if err := w.Client.Cancel(ctx, part...); err != nil {
			return err
		}
	}
	return nil
}

// interrupt is the answer to a signal: the first cancels, the second leaves.
func (w *Watcher) interrupt(ctx context.Context) error {
	if w.interrupted || w.OnlyLooks {
		return command.ErrInterrupted
	}
	w.interrupted = true
	const text = "canceling the builds; interrupt again to leave at once"
	w.model.SetNote(text)
	w.lines(text)
	if err := w.cancelRest(ctx); err != nil {
		return errors.Join(command.ErrInterrupted, fmt.Errorf("cancel builds: %w", err))
	}
	return nil
}
