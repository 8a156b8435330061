package cli

import (
	"context"
	"fmt"
	"time"

	"lighter/internal/agentapi"
	"lighter/machines"
)

// maxClockSkew is the difference between two clocks that is worth a warning.
const maxClockSkew = time.Minute

// reached is a machine whose agent answers.
type reached struct {
	client    *agentapi.Client
	info      *agentapi.Machine
	roundTrip time.Duration // of a question to the agent
	skew      time.Duration // its clock minus the head's
	close     func()
}

// roundTrips is how often the agent is asked to find out how long that takes.
const roundTrips = 3

// reach connects to a machine and has its agent started.
func (o *offloading) reach(ctx context.Context, m *machines.Machine) (*reached, error) {
	link, err := o.links.Link(*m)
	if err != nil {
		return nil, err
	}
	r := &reached{client: agentapi.NewClient(link.DialAgent)}
	r.close = func() {
		r.client.Close()
		_ = link.Close() // nothing is under way on it
	}
	// The first answer includes the way there.
	if r.info, err = r.client.Machine(ctx); err == nil {
		err = r.ask(ctx)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// ask asks again for what changes.
func (r *reached) ask(ctx context.Context) error {
	for i := range roundTrips {
		asked := time.Now()
		info, err := r.client.Machine(ctx)
		if err != nil {
			return err
		}
		took := time.Since(asked)
		if i > 0 && took >= r.roundTrip {
			continue
		}
		r.info, r.roundTrip = info, took
		r.skew = info.Now.Sub(asked.Add(took / 2))
	}
	return nil
}

// clockText says how the machine's clock differs, and whether that is worth a warning.
func (r *reached) clockText() (text string, far bool) {
	skew := r.skew.Round(time.Millisecond)
	switch far = skew.Abs() > maxClockSkew; {
	case skew.Abs() <= r.roundTrip:
		return "as the head's", false
	case skew < 0:
		return fmt.Sprintf("%s behind the head's", -skew), far
	}
	return fmt.Sprintf("%s ahead of the head's", skew), far
}

const clockFix = "set the clocks, by NTP for example; builds work, but times of files and logs mislead"

// agentText describes the agent and what it runs on.
func agentText(info *agentapi.Machine) string {
	return fmt.Sprintf("lighter-agent %s on %s, %s", info.Version, info.Hostname, info.Kernel)
}

// storeText describes the machine's store.
func storeText(info *agentapi.Machine) string {
	if info.StoreKind == machines.StoreDaemon {
		return fmt.Sprintf("guix-daemon's %s", info.StoreDir)
	}
	return fmt.Sprintf("lighter's own %s", info.StoreDir)
}
