package buildlog

import (
	"context"
	"fmt"
	"io"

	"lighter/internal/api"
)

// Last returns the log of a build's current or last attempt; of a check, that of the first
// machine on which the build fails, or of the first machine.
func Last(b *api.Build) Name {
	if b.Check == 0 {
		return Name{ID: b.LogID(), Attempt: b.Attempt}
	}
	var last Name
	for i := range b.Results {
		r := &b.Results[i]
		if r.LogID != "" && (last.ID == "" || r.Failure != nil) {
			last = Name{ID: r.LogID, Attempt: r.LogAttempt}
		}
		if r.Failure != nil {
			break
		}
	}
	return last
}

// OfAttempt returns the log of one of a build's attempts.
func OfAttempt(b *api.Build, attempt int64) (Name, error) {
	switch {
	case b.Check > 0:
		return Name{}, api.BadRequest("build %s is a check: it has logs by machine, not by attempt", b.ID)
	case attempt > int64(b.Attempt) && b.Attempt == 0:
		return Name{}, api.BadRequest("build %s has no attempt %d: it was not tried", b.ID, attempt)
	case attempt > int64(b.Attempt):
		return Name{}, api.BadRequest("build %s has no attempt %d: the last one is %d", b.ID, attempt, b.Attempt)
	}
	return Name{ID: b.LogID(), Attempt: int(attempt)}, nil
}

// CopyOf copies one of a build's logs from an offset on; with follow, until it is complete.
// flush, if not nil, is called whenever there is nothing more at the moment.
func (f *Folder) CopyOf(ctx context.Context, w io.Writer, b *api.Build, which Name, offset int64, follow bool, flush func()) error {
	if err := tried(b, which); err != nil {
		return err
	}
	if err := f.CopyTo(ctx, w, which.ID, which.Attempt, offset, follow, flush); err != nil {
		return fmt.Errorf("build %s: %w", b.ID, err)
	}
	return nil
}

// tried says that there is no log, if it is one of no attempt.
func tried(b *api.Build, which Name) error {
	switch {
	case which.Attempt > 0:
		return nil
	case b.State.Final():
		return fmt.Errorf("build %s: %w: it was never tried", b.ID, ErrNoLog)
	}
	return fmt.Errorf("build %s: %w: it has not been tried yet", b.ID, ErrNoLog)
}

// lastOn returns the log of a build's last attempt on a machine, by its events; none if there was no such attempt.
func lastOn(b *api.Build, events []api.Event, machine string) (found Name) {
	for i := range events {
		if events[i].Machine == machine && events[i].Attempt > 0 {
			found = Name{ID: b.LogID(), Attempt: events[i].Attempt}
		}
	}
	return found
}

// Choose returns the log of a build's attempt, or of its last attempt on a machine; none if neither is given.
// events returns the build's events, and comparing the log of what the machine is building for a check.
func Choose(b *api.Build, attempt int64, machine string, events func() ([]api.Event, error), comparing func() (Name, error)) (chosen Name, err error) {
	switch {
	case attempt > 0 && machine != "":
		return chosen, api.BadRequest("attempt and machine: give one of them")
	case attempt > 0:
		return OfAttempt(b, attempt)
	case machine == "":
		return chosen, nil
	case b.Check > 0:
		if chosen = comparedOn(b, machine); chosen.Attempt == 0 {
			chosen, err = comparing()
		}
	default:
		var all []api.Event
		all, err = events()
		chosen = lastOn(b, all, machine)
	}
	if err == nil && chosen.Attempt == 0 {
		err = api.BadRequest("build %s was not tried on a machine %q", b.ID, machine)
	}
	return chosen, err
}

// comparedOn returns the log of what a machine built for a check; none if it did not.
func comparedOn(b *api.Build, machine string) Name {
	for i := range b.Results {
		if r := &b.Results[i]; r.Machine == machine && r.LogID != "" {
			return Name{ID: r.LogID, Attempt: r.LogAttempt}
		}
	}
	return Name{}
}
