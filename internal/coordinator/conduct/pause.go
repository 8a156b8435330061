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
	Reason string `json:"reason,omitempty"`
}

// Why says why nothing is placed; empty if it is.
func (p Pause) Why() string {
	if !p.Paused {
		return ""
	}
	return WithReason("paused", p.Reason)
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
		return Pause{true, err.Error()}, nil
	}
	return p, err
}

// WithReason adds a person's reason to what was done, if there is one.
func WithReason(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}
