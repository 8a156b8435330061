package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/scheduler/estimate"
)

// Durations returns the last samples of a package for a system, at most 16, most recent
// first.
func (l *Ledger) Durations(ctx context.Context, name, system string) ([]Sample, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	samples, err := l.samples.of(keyDuration(name, system))
	return slices.Clone(samples), err
}

// Estimate says what a build will probably take. With an error it is a guess.
func (l *Ledger) Estimate(ctx context.Context, k estimate.Key) (estimate.Estimate, error) {
	found, err := l.Durations(ctx, k.Name, k.System)
	var samples []estimate.Sample
	for _, s := range found {
		samples = append(samples, estimate.Sample{Duration: time.Duration(s.Seconds * float64(time.Second)), Speed: s.Speed, System: k.System})
	}
	return estimate.Of(k, samples, nil, nil), err
}

// samplesRemembered is about how many packages have their samples in memory.
const samplesRemembered = 1 << 13

// samples are those of packages that were asked for lately. Each build asks when it comes and
// when it ends, and builds of a package come close together.
type samples struct {
	db    *database
	mu    sync.Mutex
	known map[string][]Sample // guarded by mu; the slices don't change
}

// of returns the samples of a package, which must not be changed.
func (s *samples) of(key []byte) ([]Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // held while reading, so that nothing older comes in afterwards
	if known, ok := s.known[string(key)]; ok {
		return known, nil
	}
	value, err := get(s.db, key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	var read []Sample
	if err == nil {
		if read, err = decodeSamples(key, value); err != nil {
			s.db.setAside(err)
		}
	}
	if len(s.known) >= samplesRemembered {
		clear(s.known)
	}
	s.known[string(key)] = read
	return read, nil
}

// remember replaces samples with those that were written.
func (s *samples) remember(written map[string][]Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.known, written)
}

// decodeSamples reads the samples of a package. With an error, a *RecordError, it returns
// those that can be used.
func decodeSamples(key, value []byte) ([]Sample, error) {
	what := strings.ReplaceAll(string(key[1:]), "\x00", " ")
	var samples []Sample
	if err := json.Unmarshal(value, &samples); err != nil {
		return nil, unusable(err, "durations of %q", what)
	}
	for i := range samples {
		if err := samples[i].valid(); err != nil {
			good := slices.DeleteFunc(samples, func(s Sample) bool { return s.valid() != nil })
			return good[:min(len(good), maxSamples)], unusable(err, "durations of %q", what)
		}
	}
	if len(samples) > maxSamples {
		return samples[:maxSamples], unusable(fmt.Errorf("%d samples, at most %d are kept", len(samples), maxSamples), "durations of %q", what)
	}
	return samples, nil
}

func decodeMachine(key, value []byte) (*Machine, error) {
	m, err := decode(value, (*Machine).valid)
	if err == nil && m.Name != string(key[1:]) {
		err = fmt.Errorf("it is about %q", m.Name)
	}
	if err != nil {
		return nil, unusable(err, "machine %q", key[1:])
	}
	return m, nil
}

// Machines returns what was learnt of machines, by name.
func (l *Ledger) Machines(ctx context.Context) (map[string]Machine, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	machines := make(map[string]Machine)
	err := scan(l.db, []byte{prefixMachine}, func(key, value []byte) error {
		m, err := decodeMachine(key, value)
		if err != nil {
			l.db.setAside(err)
			return nil
		}
		machines[m.Name] = *m
		return nil
	})
	return machines, err
}

// Setting decodes the setting with a name into v, and reports whether there is one. If it
// can't be decoded, the error is a *RecordError.
func (l *Ledger) Setting(ctx context.Context, name string, v any) (bool, error) {
	if err := l.db.begin(ctx); err != nil {
		return false, err
	}
	defer l.db.end()
	value, err := get(l.db, keySetting(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("setting %s: %w", name, err)
	}
	if err := json.Unmarshal(value, v); err != nil {
		err = unusable(err, "setting %q", name)
		l.db.setAside(err)
		return false, err
	}
	return true, nil
}

// Settings calls fn for each setting whose name starts with a prefix, in the order of names.
// Values that are not JSON are left out.
func (l *Ledger) Settings(ctx context.Context, prefix string, fn func(name string, value json.RawMessage) error) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	return scan(l.db, keySetting(prefix), func(key, value []byte) error {
		if err := validSetting(string(key[1:]), value); err != nil {
			l.db.setAside(unusable(err, "setting %q", key[1:]))
			return nil
		}
		return fn(string(key[1:]), slices.Clone(value))
	})
}
