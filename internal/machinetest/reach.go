package machinetest

import (
	"context"
	"fmt"
	"io"
	"time"

	"lighter/internal/agentapi"
	"lighter/machines"
	"lighter/store"
)

// Agent is what a test asks of the agent on a machine.
type Agent interface {
	Machine(ctx context.Context) (*agentapi.Machine, error)
	Import(ctx context.Context, archive io.Reader) ([]*store.Info, error)
	AddText(ctx context.Context, name string, content []byte) (*store.Info, error)
	// Export returns an archive, which the caller closes.
	Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error)
}

// Reached is a machine whose agent answers.
type Reached struct {
	Info *agentapi.Machine
	// Took is how long the first answer took, with the way there; RoundTrip how long one
	// takes after that.
	Took, RoundTrip time.Duration
	Skew            time.Duration // its clock minus the head's
}

// roundTrips is how often the agent is asked to find out how long that takes.
const roundTrips = 3

// Reach asks a machine's agent what the machine is.
func Reach(ctx context.Context, agent Agent) (*Reached, error) {
	began := time.Now()
	info, err := agent.Machine(ctx)
	if err != nil {
		return nil, err
	}
	r := &Reached{Info: info, Took: time.Since(began)}
	for i := range roundTrips {
		asked := time.Now()
		info, err := agent.Machine(ctx)
		if err != nil {
			return nil, err
		}
		took := time.Since(asked)
		if i > 0 && took >= r.RoundTrip {
			continue
		}
		r.Info, r.RoundTrip = info, took
		r.Skew = info.Now.Sub(asked.Add(took / 2))
	}
	return r, nil
}

// MaxSkew is the difference between two clocks that is worth a warning.
const MaxSkew = time.Minute

// ClockFix is what to do about a clock that is far off.
const ClockFix = "set the clocks, by NTP for example; builds work, but times of files and logs mislead"

// Clock says how the machine's clock differs, and whether that is worth a warning.
func (r *Reached) Clock() (text string, far bool) {
	skew := r.Skew.Round(time.Millisecond)
	switch far = skew.Abs() > MaxSkew; {
	case skew.Abs() <= r.RoundTrip:
		return "as the head's", false
	case skew < 0:
		return fmt.Sprintf("%s behind the head's", -skew), far
	}
	return fmt.Sprintf("%s ahead of the head's", skew), far
}

// StoreText describes a machine's store.
func StoreText(info *agentapi.Machine) string { return StoreOf(info.StoreKind, string(info.StoreDir)) }

// StoreOf describes a store by its kind and folder.
func StoreOf(kind, folder string) string {
	if kind == machines.StoreDaemon {
		return "guix-daemon's " + folder
	}
	return "lighter's own " + folder
}
