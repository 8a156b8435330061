package ledger

import (
	"fmt"
	"time"

	"lighter/internal/api"
	"lighter/internal/history"
	"lighter/scheduler/estimate"
)

// Change is one change of the ledger.
type Change struct {
	// Build is the full new record, or nil. It is new, or replaces the one with the same
	// ID. The ledger retains nothing of it.
	Build *api.Build
	// Create says that the build must be new; if it is not, the error matches
	// ErrExists.
	Create bool
	// Event is appended; the ledger sets number and time. With Build, its build, state
	// and attempt are the record's and need not be set. If it is nil, and the record is
	// new or has another state or attempt, an event is made from the record. An event of
	// a build (not of a machine) without Build must not change the build's state.
	Event *api.Event
	// Samples, if not nil, are added to those of their package.
	Samples *Samples
	// Machine, if not nil, replaces what was known of that machine.
	Machine *Machine
	// Setting, if not nil, is kept, or removed.
	Setting *Setting
	// Hour, if not nil, replaces the one with its number. Some time after, those that are history.Keep older are gone.
	Hour *history.Hour
}

// Setting is a value kept under a name, as JSON: what an operator decided, or how far a
// reader of the events has come.
type Setting struct {
	Name  string
	Value any // nil removes it
}

// Machine is what was learnt of a machine and is worth keeping.
type Machine struct {
	Name string `json:"name"`
	// Bandwidth and FetchBandwidth are measured towards it and from it, in bytes/s.
	Bandwidth      float64   `json:"bandwidth,omitempty"`
	FetchBandwidth float64   `json:"fetchBandwidth,omitempty"`
	SpeedLog       float64   `json:"speedLog,omitempty"`     // Log of scheduler.SpeedEstimate
	SpeedSamples   int       `json:"speedSamples,omitempty"` // Samples of the same
	PublicKey      string    `json:"publicKey,omitempty"`    // of its store, last seen
	Updated        time.Time `json:"updated,omitzero"`
	// Route is how its entry led to it when it was last reached, as machines.Route says it, and Agent the id of the agent that
	// answered: machines that agree in one of them lead, or led, to the same host.
	Route string `json:"route,omitempty"`
	Agent string `json:"agent,omitempty"`
}

// prepared is a change, encoded as far as its caller can.
type prepared struct {
	id     string // of the build that it is about; empty if there is none
	record []byte // of the build; nil leaves it as it is
	create bool
	state  byte // of the record, or what an event claims; 0 if it claims none

	attempt uint32 // of the record
	terms   *terms // of the record
	event   []byte // without number and time
	always  bool   // append the event even if state and attempt are the same

	samples *Samples
	machine *Machine
	known   []byte // the machine, encoded
	setting string // its name; empty if there is none
	value   []byte // nil removes the setting
	hour    int64
	isNew   bool   // the hour is likely not there yet
	read    []byte // the hour, encoded; nil if there is none
}

// storedEvent is an event as it is stored: without number and time, which are known
// only when it is written.
type storedEvent struct {
	Kind    api.EventKind `json:"kind,omitempty"`
	Build   string        `json:"build,omitempty"`
	State   api.State     `json:"state,omitempty"`
	Attempt int           `json:"attempt,omitempty"`
	Machine string        `json:"machine,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Failure *api.Failure  `json:"failure,omitempty"`
}

func prepare(c *Change) (*prepared, error) {
	p := &prepared{create: c.Create, samples: c.Samples, machine: c.Machine}
	if err := p.prepareBuild(c.Build); err != nil {
		return nil, err
	}
	if err := p.prepareEvent(c); err != nil {
		return nil, err
	}
	if s := c.Samples; s != nil {
		if err := s.valid(); err != nil {
			return nil, fmt.Errorf("samples of %.100q: %w", s.Key.Name, err)
		}
	}
	if m := c.Machine; m != nil {
		err := m.valid()
		if err == nil {
			p.known, err = encode(m, api.MaxRecord)
		}
		if err != nil {
			return nil, fmt.Errorf("machine %.100q: %w", m.Name, err)
		}
	}
	if h := c.Hour; h != nil {
		var err error
		if p.read, err = h.Encode(); err != nil {
			return nil, fmt.Errorf("hour %d: %w", h.Number, err)
		}
		p.hour, p.isNew = h.Number, len(h.Parts) == 1
	}
	return p, p.prepareSetting(c.Setting)
}

func (p *prepared) prepareSetting(s *Setting) error {
	if s == nil {
		return nil
	}
	p.setting = s.Name
	value, err := encode(s.Value, api.MaxSetting)
	if err == nil {
		err = validSetting(s.Name, value)
	}
	if err != nil {
		return fmt.Errorf("setting %.100q: %w", s.Name, err)
	}
	if s.Value != nil {
		p.value = value
	}
	return nil
}

func (p *prepared) prepareBuild(b *api.Build) error {
	if b == nil {
		if p.create {
			return fmt.Errorf("create without a build")
		}
		return nil
	}
	p.id = b.ID
	err := validBuild(b)
	if err == nil {
		limit := api.MaxRecord
		if p.create {
			limit = api.MaxRequest
		}
		p.record, err = encode(b, limit)
	}
	if err != nil {
		return fmt.Errorf("build %.100q: %w", b.ID, err)
	}
	p.state, p.attempt = stateCodes[b.State], uint32(b.Attempt) // #nosec G115 -- checked by validBuild
	p.terms = newTerms(b)
	return nil
}

func (p *prepared) prepareEvent(c *Change) error {
	s, err := p.storedEvent(c)
	if s == nil || err != nil {
		return err
	}
	if c.Create && s.Kind == "" {
		s.Kind = api.KindSubmitted
	}
	if err := s.valid(); err != nil {
		return fmt.Errorf("event of build %.100q: %w", s.Build, err)
	}
	if c.Build == nil && s.Build != "" {
		p.id, p.state = s.Build, stateCodes[s.State]
	}
	if p.event, err = encode(s, api.MaxEvent); err != nil {
		return fmt.Errorf("event of build %.100q: %w", s.Build, err)
	}
	return nil
}

// storedEvent returns the event of a change, which may be made from its build, or nil.
func (p *prepared) storedEvent(c *Change) (*storedEvent, error) {
	e, b := c.Event, c.Build
	switch {
	case e == nil && b == nil:
		return nil, nil
	case e == nil:
		s := &storedEvent{"", b.ID, b.State, b.Attempt, b.Machine, b.Reason, b.Failure}
		if b.State.Running() {
			s.Failure = nil // that of an earlier attempt
		}
		return s, nil
	}
	p.always = true
	s := &storedEvent{e.Kind, e.Build, e.State, e.Attempt, e.Machine, e.Reason, e.Failure}
	if b != nil {
		if s.Build != "" && s.Build != b.ID || s.State != "" && s.State != b.State {
			return nil, fmt.Errorf("build %s, %s: its event is about build %.100q, %.40q", b.ID, b.State, s.Build, s.State)
		}
		s.Build, s.State, s.Attempt = b.ID, b.State, b.Attempt
	}
	return s, nil
}

// size returns about how many bytes the change takes in a batch.
func (p *prepared) size() int {
	const perEntry = 64 // a key, and what an index gets
	n := 8*perEntry + len(p.record) + len(p.event) + len(p.known) + len(p.value) + len(p.read)
	if p.samples != nil {
		n += perEntry * estimate.MaxSamples * 4
	}
	if p.terms != nil {
		n += perEntry * (len(p.terms.fixed) + len(p.terms.outputs))
	}
	return n
}
