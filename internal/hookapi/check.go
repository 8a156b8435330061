package hookapi

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"lighter/internal/api"
	"lighter/store"
)

// maxTime bounds a build's time limits, in seconds: guix-daemon's are 31 bits.
const maxTime = math.MaxInt32

// MaxShipment is how many bytes of NARs one shipment may have.
const MaxShipment = 1 << 40

// Silence is how long a coordinator that has an order says nothing at most, before the
// hook believes that it is gone. It says something every [Order.AliveEvery].
const Silence = 30 * time.Second

// aliveEvery is how often a coordinator says something without a need.
const aliveEvery = 5 * time.Second

// AliveEvery is how often a coordinator that has the order says at least something: by
// repeating the last State, where there is nothing new. The hook needs that to tell a
// build that waits from a coordinator that is not there any more, and so several times
// within the silence that guix-daemon allows.
func (o *Order) AliveEvery() time.Duration {
	silent := time.Duration(float64(o.MaxSilentTime) * float64(time.Second))
	if silent <= 0 {
		return aliveEvery
	}
	return min(aliveEvery, max(silent/4, 100*time.Millisecond))
}

// SetInputs sets as many of the inputs as an order has room for.
func (o *Order) SetInputs(inputs []store.Path) {
	room := MaxFrame / 2 // the other half is more than enough for the rest, and for escapes
	for i, p := range inputs {
		if room -= len(p) + len(`"",`); room < 0 {
			inputs = inputs[:i]
			break
		}
	}
	o.Inputs = inputs
}

// NewID returns an id for a build, and the secret that belongs to it. Everyone may see ids;
// who has the secret, which is in orders alone, is the hook that made the build.
func NewID() (id, secret string, err error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", "", err
	}
	secret = hex.EncodeToString(random[:])
	return idOf(secret), secret, nil
}

// idOf returns the UUID (RFC 9562, version 8) that belongs to a secret.
func idOf(secret string) string {
	b := sha256.Sum256([]byte("lighter-offload " + secret))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// proves reports whether an order comes from the hook that made its id. Hooks of earlier
// versions had ids without a secret, of UUIDs' version 4.
func (o *Order) proves() bool {
	hasSecret := len(o.ID) == 36 && o.ID[14] == '8'
	return !hasSecret || idOf(o.Secret) == o.ID
}

// Decode reads the JSON of a frame, and checks it. Texts are for people: they are made
// printable, and cut where they are too long. An Order it only reads, so that the hook can
// be told what is wrong with it: see [Order.Check].
func Decode(payload []byte, v any) error {
	err := json.Unmarshal(payload, v)
	if m, ok := v.(interface{ check() error }); ok && err == nil {
		err = m.check()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}

func (q *Question) check() error {
	if !q.Derivation.IsDerivation() {
		return fmt.Errorf("%q is not a derivation", q.Derivation)
	}
	if !isWord(q.System) {
		return fmt.Errorf("system %.80q: want a word of at most %d bytes", q.System, api.MaxName)
	}
	if len(q.Features) > api.MaxFeatures {
		return fmt.Errorf("%d features: want at most %d", len(q.Features), api.MaxFeatures)
	}
	for _, f := range q.Features {
		if !isWord(f) {
			return fmt.Errorf("feature %.80q: want a word of at most %d bytes", f, api.MaxName)
		}
	}
	return nil
}

// Check returns what is wrong with a question, for who is about to ask it.
func (q *Question) Check() error { return q.check() }

func isWord(s string) bool {
	return s != "" && len(s) <= api.MaxName && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) })
}

func (a *Answer) check() error {
	if a.Verdict != Accept && a.Verdict != Decline && a.Verdict != Postpone {
		return fmt.Errorf("a verdict other than %s, %s and %s", Accept, Decline, Postpone)
	}
	a.Reason = Printable(a.Reason)
	return nil
}

// Check returns what is wrong with an order, other than what only the derivation tells.
func (o *Order) Check() error {
	switch {
	case o.ID == "":
		return errors.New("an order without an id")
	case !o.proves():
		return fmt.Errorf("id %s is the id of another hook's build", o.ID)
	case !o.Derivation.IsDerivation():
		return fmt.Errorf("%q is not a derivation", o.Derivation)
	case len(o.Outputs) == 0:
		return fmt.Errorf("an order for no output of %s", o.Derivation)
	case len(o.Outputs) > api.MaxOutputs:
		return fmt.Errorf("an order for %d outputs: want at most %d", len(o.Outputs), api.MaxOutputs)
	case slices.Contains(o.Outputs, ""), slices.Contains(o.Inputs, ""):
		return errors.New("an order with an input or an output that has no name")
	case o.Timeout > maxTime, o.MaxSilentTime > maxTime:
		return fmt.Errorf("a time limit of more than %d s", maxTime)
	case o.LogAttempt < 0, o.LogAttempt > api.MaxAttempt, o.LogOffset < 0:
		return fmt.Errorf("%d bytes of the log of attempt %d", o.LogOffset, o.LogAttempt)
	}
	return nil
}

func (p *Progress) check() error {
	if err := checkState(p.State); err != nil {
		return err
	}
	if p.Attempt < 0 || p.Attempt > api.MaxAttempt {
		return fmt.Errorf("attempt %d", p.Attempt)
	}
	p.Machine, p.Reason = line(p.Machine), Printable(p.Reason)
	return nil
}

func checkState(s api.State) error {
	if !slices.Contains(api.States(), s) {
		return fmt.Errorf("state %.80q: there are %v", s, api.States())
	}
	return nil
}

func (s *Shipment) check() error {
	switch {
	case s.Number < 1:
		return fmt.Errorf("shipment number %d", s.Number)
	case s.Items < 0, s.Items > api.MaxOutputs:
		return fmt.Errorf("a shipment of %d items: want at most %d", s.Items, api.MaxOutputs)
	case len(s.NARHashes) > api.MaxOutputs:
		return fmt.Errorf("a shipment with %d hashes: want at most %d", len(s.NARHashes), api.MaxOutputs)
	case s.Bytes < 0, s.Bytes > MaxShipment:
		return fmt.Errorf("a shipment of %d bytes: want at most %d", s.Bytes, int64(MaxShipment))
	}
	s.Machine = line(s.Machine)
	return nil
}

func (r *Receipt) check() error {
	r.Error = api.Cut(Printable(r.Error), api.MaxProblem) // it becomes a part of a message
	return nil
}

func (r *Result) check() error {
	if err := checkState(r.State); err != nil {
		return err
	}
	if !r.State.Final() {
		return fmt.Errorf("a build that is %s is not over", r.State)
	}
	r.Machine, r.Reason = line(r.Machine), Printable(r.Reason)
	if f := r.Failure; f != nil {
		f.Machine, f.KeptIn, f.Message = line(f.Machine), line(f.KeptIn), Printable(f.Message)
	}
	return nil
}

// Printable returns a text from elsewhere without what would control a terminal. Its lines
// stay lines. What is longer than a text may be is cut.
func Printable(text string) string {
	return replaceUnprintable(api.Cut(strings.TrimRight(text, "\n"), api.MaxReason), "\n\t")
}

// line is Printable for what stands in one line, such as a name.
func line(text string) string { return replaceUnprintable(api.Cut(text, api.MaxName), "") }

func replaceUnprintable(text, except string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || strings.ContainsRune(except, r) {
			return r
		}
		return '?'
	}, text)
}
