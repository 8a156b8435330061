package conduct

import (
	"context"
	"errors"

	"lighter/internal/ledger"
)

// pauseSetting is the name of the ledger's setting that says whether an operator paused
// the coordinator.
const pauseSetting = "paused"

// Pause is whether an operator has placing paused. The zero value is that it goes on.
type Pause struct {
	Paused bool   `json:"paused"`
	By     string `json:"by,omitempty"` // who did, if that is known
	Reason string `json:"reason,omitempty"`
}

// Why says why nothing is placed; empty if it is.
func (p Pause) Why() string {
	if !p.Paused {
		return ""
	}
	return Done("paused", p.By, p.Reason)
}

// Setting returns what the ledger is to keep of it.
func (p Pause) Setting() *ledger.Setting {
	s := &ledger.Setting{Name: pauseSetting}
	if p.Paused {
		s.Value = p
	}
	return s
}

// RecallPause reads it. One that can't be read is a pause: better that somebody has to resume it than that what
// was paused goes on.
func RecallPause(ctx context.Context, l *ledger.Ledger) (p Pause, err error) {
	_, err = l.Setting(ctx, pauseSetting, &p)
	if errors.As(err, new(*ledger.RecordError)) {
		return Pause{Paused: true, Reason: err.Error()}, nil
	}
	return p, err
}

// Done adds to what was done who did it, and the reason, as far as they are known: "paused by alice:
// moving house".
func Done(what, by, reason string) string {
	if by != "" {
		what += " by " + by
	}
	if reason != "" {
		what += ": " + reason
	}
	return what
}
