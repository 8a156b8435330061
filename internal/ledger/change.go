package ledger

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"lighter/internal/api"
)

// Change is one change of the ledger.
type Change struct {
	// Build is the full new record, or nil. It takes the place of the one with the
	// same ID, or is new. Nothing of it is kept.
	Build *api.Build
	// Create says that the build must be new; if it is not, the error matches
	// ErrExists.
	Create bool
	// Event is appended; number and time are the ledger's. With Build, its build,
	// state and attempt are the record's and need not be set. If it is nil, and the
	// record is new or has another state or attempt, an event is made of the record.
	// An event of a build (not of a machine) without Build must not change its state.
	Event *api.Event
	// Duration, if not nil, is recorded.
	Duration *Duration
	// Machine, if not nil, replaces what was known of that machine.
	Machine *Machine
	// Setting, if not nil, is kept, or removed.
	Setting *Setting
}

// Setting is a value that is kept under a name, as JSON: what an operator decided, or how
// far a reader of the events has come.
type Setting struct {
	Name  string
	Value any // nil removes it
}

// Sample is one measured build.
type Sample struct {
	Machine string    `json:"machine"`
	Speed   float64   `json:"speed"`   // of the machine, as configured
	Seconds float64   `json:"seconds"` // that the build took there
	Time    time.Time `json:"time"`
}

// Duration says how long a build of a package (by the name of its derivation,
// without hash) took for a system.
type Duration struct {
	Name, System string
	Sample       Sample
}

// maxSamples is how many samples are kept of each package and system.
const maxSamples = 16

// Machine is what was learnt of a machine and is worth keeping.
type Machine struct {
	Name         string    `json:"name"`
	Bandwidth    float64   `json:"bandwidth,omitempty"`    // measured, bytes/s
	SpeedLog     float64   `json:"speedLog,omitempty"`     // Log of scheduler.SpeedEstimate
	SpeedSamples int       `json:"speedSamples,omitempty"` // Samples of the same
	PublicKey    string    `json:"publicKey,omitempty"`    // of its store, last seen
	Updated      time.Time `json:"updated,omitzero"`
}

// maxIDLen bounds ids of builds; a UUID has 36 bytes.
const maxIDLen = 200

// prepared is a change, encoded as far as its caller can.
type prepared struct {
	id     string // of the build that it is about; empty if it is about none
	record []byte // of the build; nil leaves it as it is
	create bool
	state  byte // of the record, or what an event claims; 0 if it claims none

	attempt uint32 // of the record
	terms   *terms // of the record
	event   []byte // without number and time
	always  bool   // append the event also if state and attempt are the same

	duration *Duration
	machine  *Machine
	known    []byte // the machine, encoded
	setting  string // its name; empty if there is none
	value    []byte // nil removes the setting
}

// storedEvent is how an event stands in the ledger: without number and time, which
// are known only when it is written.
type storedEvent struct {
	Kind    string       `json:"kind,omitempty"`
	Build   string       `json:"build,omitempty"`
	State   api.State    `json:"state,omitempty"`
	Attempt int          `json:"attempt,omitempty"`
	Machine string       `json:"machine,omitempty"`
	Reason  string       `json:"reason,omitempty"`
	Failure *api.Failure `json:"failure,omitempty"`
}

func prepare(c *Change) (*prepared, error) {
	p := &prepared{create: c.Create, duration: c.Duration, machine: c.Machine}
	if err := p.prepareBuild(c.Build); err != nil {
		return nil, err
	}
	if err := p.prepareEvent(c); err != nil {
		return nil, err
	}
	if c.Duration != nil && (c.Duration.Name == "" || c.Duration.System == "") {
		return nil, fmt.Errorf("duration without name or system")
	}
	if c.Machine != nil {
		if c.Machine.Name == "" {
			return nil, fmt.Errorf("machine without a name")
		}
		var err error
		if p.known, err = json.Marshal(c.Machine); err != nil {
			return nil, fmt.Errorf("machine %s: %w", c.Machine.Name, err)
		}
	}
	if s := c.Setting; s != nil {
		if s.Name == "" {
			return nil, fmt.Errorf("setting without a name")
		}
		p.setting = s.Name
		if s.Value != nil {
			var err error
			if p.value, err = json.Marshal(s.Value); err != nil {
				return nil, fmt.Errorf("setting %s: %w", s.Name, err)
			}
		}
	}
	return p, nil
}

func (p *prepared) prepareBuild(b *api.Build) error {
	if b == nil {
		if p.create {
			return fmt.Errorf("create without a build")
		}
		return nil
	}
	p.id = b.ID
	if err := checkID(b.ID); err != nil {
		return err
	}
	var ok bool
	if p.state, ok = stateCodes[b.State]; !ok {
		return fmt.Errorf("build %s: unknown state %q", b.ID, b.State)
	}
	if b.Attempt < 0 || b.Attempt > math.MaxInt32 {
		return fmt.Errorf("build %s: attempt %d", b.ID, b.Attempt)
	}
	p.attempt = uint32(b.Attempt) // #nosec G115 -- checked above
	p.terms = newTerms(b)
	err := checkName(p.terms.name)
	if err != nil {
		return fmt.Errorf("build %s: %w", b.ID, err)
	}
	if p.record, err = json.Marshal(b); err != nil {
		return fmt.Errorf("build %s: %w", b.ID, err)
	}
	return nil
}

func checkID(id string) error {
	if id == "" || len(id) > maxIDLen {
		return fmt.Errorf("build %q: its id must have 1 to %d bytes", id, maxIDLen)
	}
	return nil
}

func (p *prepared) prepareEvent(c *Change) error {
	e := c.Event
	if e == nil && c.Build == nil {
		return nil
	}
	var s storedEvent
	if e == nil {
		b := c.Build
		s = storedEvent{"", b.ID, b.State, b.Attempt, b.Machine, b.Reason, b.Failure}
		if b.State.Running() {
			s.Failure = nil // that of an earlier attempt
		}
	} else {
		s = storedEvent{e.Kind, e.Build, e.State, e.Attempt, e.Machine, e.Reason, e.Failure}
		p.always = true
	}
	switch {
	case c.Build != nil:
		if s.Build != "" && s.Build != c.Build.ID || s.State != "" && s.State != c.Build.State {
			return fmt.Errorf("build %s, %s: its event is about build %s, %s", c.Build.ID, c.Build.State, s.Build, s.State)
		}
		s.Build, s.State, s.Attempt = c.Build.ID, c.Build.State, c.Build.Attempt
	case s.Build != "":
		if err := checkID(s.Build); err != nil {
			return err
		}
		p.id = s.Build
		if s.State != "" {
			var ok bool
			if p.state, ok = stateCodes[s.State]; !ok {
				return fmt.Errorf("build %s: event with unknown state %q", s.Build, s.State)
			}
		}
	}
	if c.Create && s.Kind == "" {
		s.Kind = api.KindSubmitted
	}
	var err error
	if p.event, err = json.Marshal(s); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return nil
}
