package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
)

// buildClient is what watching builds needs of the coordinator.
type buildClient interface {
	Build(ctx context.Context, id string) (*api.Build, error)
	Cancel(ctx context.Context, ids ...string) error
	Status(ctx context.Context) (*api.Status, error)
	// LogTail returns at most that many bytes from the end of a build's log.
	LogTail(ctx context.Context, id string, bytes int64) ([]byte, error)
	// Follow calls fn for each event from number from on, until the context ends,
	// fn returns an error or the coordinator is gone; only of the named builds if any are.
	Follow(ctx context.Context, from uint64, fn func(*api.Event) error, builds ...string) error
}

// How a watched build is shown.
const (
	frameInterval = 100 * time.Millisecond
	pollInterval  = 200 * time.Millisecond
	failedLines   = 12       // of a failed build's log
	failedBytes   = 16 << 10 // read from the log's end for them
	// A coordinator that went away has this long to come back: its builds go on.
	coordinatorGrace = time.Minute
)

// watcher follows builds to their end and shows them meanwhile.
type watcher struct {
	client    buildClient
	model     *display.Model
	show      shower
	style     display.Style
	signals   <-chan os.Signal
	resized   <-chan os.Signal // SIGWINCH; may be nil
	keepGoing bool
	now       func() time.Time

	next        uint64          // number of the next event
	reported    map[string]bool // builds whose outcome was shown
	started     map[string]int  // attempt of each build whose start was shown
	interrupted bool
	canceled    bool // the other builds were canceled, for whatever reason
}

// shower is where a watcher shows things: a terminal, or lines in a file.
type shower interface {
	// lines writes lines that stay.
	lines(text ...string)
	// frame shows the model as it is now, and does nothing in a file.
	frame(m *display.Model, now time.Time)
	// starts says whether the start of each build gets a line.
	starts() bool
	close()
}

// watch returns when all wanted builds are final. It returns errInterrupted if
// the person interrupted it, and then perhaps before they are.
func (w *watcher) watch(ctx context.Context) error {
	defer w.show.close()
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
	ticks := time.NewTicker(frameInterval)
	defer ticks.Stop()

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
			w.model.SetStatus(status)
		case <-ticks.C:
			w.show.frame(w.model, w.now())
		case <-w.resized:
			w.show.frame(w.model, w.now())
		case <-w.signals:
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

// followed is what the following goroutine reports: an event, or that the
// coordinator was lost, is back (nothing is set), or stays lost (final says how).
type followed struct {
	event *api.Event
	lost  bool
	final error
}

// follow starts a goroutine that reports events, over as many connections as it
// takes. It ends with ctx, and closes the channel.
func (w *watcher) follow(ctx context.Context) <-chan followed {
	updates := make(chan followed)
	send := func(u followed) error {
		select {
		case updates <- u:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	next := w.next
	go func() {
		defer close(updates)
		for {
			err := w.client.Follow(ctx, next, func(ev *api.Event) error {
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
func (w *watcher) awaitCoordinator(ctx context.Context, err error) error {
	var outage apiclient.Outage
	for {
		if err := outage.Wait(ctx, coordinatorGrace, err); err != nil {
			return err
		}
		if _, err = w.client.Status(ctx); err == nil {
			return nil
		}
	}
}

// poll starts a goroutine that reports the coordinator's status where there is a
// display to show it on. It ends with ctx, and closes the channel.
func (w *watcher) poll(ctx context.Context) <-chan *api.Status {
	statuses := make(chan *api.Status)
	go func() {
		defer close(statuses)
		if w.show.starts() {
			<-ctx.Done()
			return
		}
		ticks := time.NewTicker(pollInterval)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
			status, err := w.client.Status(ctx)
			if err != nil {
				continue // follow reports it
			}
			select {
			case statuses <- status:
			case <-ctx.Done():
				return
			}
		}
	}()
	return statuses
}

func (w *watcher) update(ctx context.Context, u followed) error {
	switch {
	case u.final != nil:
		return command.Exit(command.ExitNoAnswer, fmt.Errorf("the coordinator went away and did not come back (%w); its builds go on when it is started again: see lighter builds list", u.final))
	case u.lost:
		w.model.SetNote("the coordinator went away; waiting for it to come back")
		w.show.lines("the coordinator went away; waiting for it to come back")
		return nil
	case u.event == nil:
		w.model.SetNote("")
		w.show.lines("the coordinator is back")
		return w.refresh(ctx)
	}
	return w.event(ctx, u.event)
}

// refresh reads the wanted builds again, so that nothing is waited for that
// happened while nobody watched.
func (w *watcher) refresh(ctx context.Context) error {
	for _, old := range w.model.Wanted() {
		if old.State.Final() {
			continue
		}
		// An error says that it is gone again; follow will say so too.
		if b, err := w.client.Build(ctx, old.ID); err == nil {
			w.model.Put(b, w.now())
			if err := w.settle(ctx, b.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watcher) event(ctx context.Context, ev *api.Event) error {
	if ev.Build == "" || ev.State == "" {
		return nil
	}
	w.learn(ctx, ev.Build)
	if !w.model.Has(ev.Build) {
		return nil
	}
	w.model.Apply(ev)
	if w.show.starts() && ev.State == api.Building && !w.reported[ev.Build] && w.started[ev.Build] < ev.Attempt {
		w.started[ev.Build] = ev.Attempt
		w.show.lines(display.Start(w.model.Build(ev.Build), ev))
	}
	return w.settle(ctx, ev.Build)
}

// maxParents bounds how far the chain of a build's parents is followed.
const maxParents = 1000

// learn makes a build, and those that it was made for, known to the model.
func (w *watcher) learn(ctx context.Context, id string) {
	var chain []*api.Build
	for len(chain) < maxParents && id != "" && !w.model.Knows(id) {
		b, err := w.client.Build(ctx, id)
		if err != nil {
			break
		}
		chain = append(chain, b)
		id = b.Parent
	}
	for _, b := range slices.Backward(chain) {
		w.model.Put(b, w.now())
	}
}

// settle shows how a build ended, if it has and that was not shown yet.
func (w *watcher) settle(ctx context.Context, id string) error {
	b := w.model.Build(id)
	if !b.State.Final() || w.reported[id] {
		return nil
	}
	w.reported[id] = true
	// The event has no sizes and times.
	if full, err := w.client.Build(ctx, id); err == nil {
		w.model.Put(full, w.now())
		b = w.model.Build(id)
	}
	text := []string{display.Outcome(b, w.style)}
	if ownFailure(b) {
		text = append(text, w.logTail(ctx, b)...)
	}
	w.show.lines(text...)
	if b.State == api.Succeeded || w.keepGoing || w.canceled || !w.model.Asked(id) {
		return nil
	}
	return w.cancelRest(ctx)
}

// ownFailure reports whether the build failed by itself, so that its log says why. Where
// machines made different things, no log does.
func ownFailure(b *api.Build) bool {
	if b.Check > 0 && !slices.ContainsFunc(b.Results, func(r api.CheckResult) bool { return r.Failure != nil }) {
		return false
	}
	return (b.State == api.Failed || b.State == api.TimedOut) &&
		(b.Failure == nil || b.Failure.Kind != api.KindDependency)
}

func (w *watcher) logTail(ctx context.Context, b *api.Build) []string {
	log, err := w.client.LogTail(ctx, b.ID, failedBytes)
	if err != nil || len(log) == 0 {
		return []string{"          lighter builds show " + b.ID}
	}
	// The first line may have been cut.
	if int64(len(log)) == failedBytes {
		_, rest, _ := strings.Cut(string(log), "\n")
		log = []byte(rest)
	}
	return append(display.LogTail(log, failedLines), "          the whole log: lighter builds log "+b.ID)
}

// cancelRest cancels what is not final of the wanted builds.
func (w *watcher) cancelRest(ctx context.Context) error {
	w.canceled = true
	var ids []string
	for _, b := range w.model.Wanted() {
		if !b.State.Final() {
			ids = append(ids, b.ID)
		}
	}
	for part := range slices.Chunk(ids, api.MaxSubmit) {
		if err := w.client.Cancel(ctx, part...); err != nil {
			return err
		}
	}
	return nil
}

// interrupt is the answer to a signal: the first cancels, the second leaves.
func (w *watcher) interrupt(ctx context.Context) error {
	if w.interrupted {
		return command.ErrInterrupted
	}
	w.interrupted = true
	const text = "canceling the builds; interrupt again to leave at once"
	w.model.SetNote(text)
	w.show.lines(text)
	if err := w.cancelRest(ctx); err != nil {
		return errors.Join(command.ErrInterrupted, fmt.Errorf("cancel builds: %w", err))
	}
	return nil
}

// lineShower shows lines in a file, a pipe, or on a terminal that can't be drawn on.
type lineShower struct{ w io.Writer }

func (s *lineShower) lines(text ...string) {
	for _, t := range text {
		fmt.Fprintln(s.w, t)
	}
}
func (s *lineShower) frame(*display.Model, time.Time) {}
func (s *lineShower) starts() bool                    { return true }
func (s *lineShower) close()                          {}

// screenShower draws on a terminal. Lines wait for the next frame, so that line and
// frame always say the same.
type screenShower struct {
	screen  *display.Screen
	style   display.Style
	waiting []string
}

func newScreenShower(f *os.File, style display.Style) *screenShower {
	return &screenShower{
		screen: display.OnTerminal(f),
		style:  style,
	}
}

func (s *screenShower) lines(text ...string) { s.waiting = append(s.waiting, text...) }

// A terminal that can't be written to any more has no use for an error.
func (s *screenShower) frame(m *display.Model, now time.Time) {
	width, height := s.screen.Size()
	_ = s.screen.Draw(s.waiting, m.Lines(now, width, height, s.style))
	s.waiting = s.waiting[:0]
}

func (s *screenShower) starts() bool { return false }
func (s *screenShower) close()       { _ = s.screen.Close(s.waiting) }

// quietShower shows nothing.
type quietShower struct{}

func (quietShower) lines(...string)                 {}
func (quietShower) frame(*display.Model, time.Time) {}
func (quietShower) starts() bool                    { return true }
func (quietShower) close()                          {}
