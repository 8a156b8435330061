package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
	"lighter/scheduler/estimate"
)

// Samples are what was measured of builds of one package, for one system.
type Samples struct {
	// Key says of which. Its version and class are not used: each sample has its own.
	Key estimate.Key
	// Samples are in order, the most recent first.
	Samples []estimate.Sample
}

// Check returns what keeps a ledger from taking them, or nil.
func (s *Samples) Check() error { return s.valid() }

// samplesOf is how many samples are kept of a package; of what is not one, a few say enough.
func samplesOf(k estimate.Kind) int {
	if k == estimate.Package {
		return estimate.MaxSamples
	}
	return 4
}

// Estimate says what a build will probably take. With an error, it is a guess.
func (l *Ledger) Estimate(ctx context.Context, k estimate.Key) (estimate.Estimate, error) {
	if err := l.db.begin(ctx); err != nil {
		return estimate.Of(k, nil, nil, nil), err
	}
	defer l.db.end()
	samples, err := l.samples.near(k)
	system, all := l.samples.classesOf(&k)
	return estimate.Of(k, samples, system, all), err
}

// AllSamples calls fn with what was measured of each package, in the order of systems, kinds and names. It may
// keep what it gets.
func (l *Ledger) AllSamples(ctx context.Context, fn func(*Samples) error) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	return scan(l.db, []byte{prefixSamples}, func(key, value []byte) error {
		read, err := decodeSamples(key, value)
		if err != nil {
			l.db.setAside(err)
		}
		if read == nil || len(read.Samples) == 0 {
			return ctx.Err()
		}
		return errors.Join(fn(read), ctx.Err())
	})
}

// samplesRemembered is about how many packages have their samples in memory.
const samplesRemembered = 1 << 13

// samples are those of packages that were asked for lately, and all classes. Each build asks when
// it comes and when it ends, and builds of a package come close together.
type samples struct {
	db      *database
	mu      sync.Mutex
	known   map[string]*Samples        // by key; guarded by mu; what it points to does not change
	systems map[string]bool            // that have samples; guarded by mu
	classes map[string]*estimate.Class // by key; guarded by mu; what it points to does not change
}

// load reads the classes, and for which systems there are samples.
func (s *samples) load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := scan(s.db, []byte{prefixClass}, func(key, value []byte) error {
		c, err := decodeClass(key, value)
		if err != nil {
			s.db.setAside(err)
			return nil
		}
		s.classes[string(key)] = c
		return nil
	})
	if err != nil {
		return err
	}
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixSamples}, UpperBound: after([]byte{prefixSamples})})
	if err != nil {
		return err
	}
	for more := iter.First(); more; { // from the first of each system to the next system
		system, _, _ := strings.Cut(string(iter.Key()[1:]), "\x00")
		s.systems[system] = true
		more = iter.SeekGE(append([]byte{prefixSamples}, system+"\x01"...))
	}
	return errors.Join(iter.Error(), iter.Close())
}

// near returns the samples of a package; if there are none, those of another system.
func (s *samples) near(k estimate.Key) ([]estimate.Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own, err := s.of(&k)
	if err != nil || own != nil {
		return own.samples(), err
	}
	var others []*Samples
	for system := range s.systems {
		if system == k.System {
			continue
		}
		k.System = system
		found, err := s.of(&k)
		if err != nil {
			return nil, err
		}
		if found != nil {
			others = append(others, found)
		}
	}
	if others == nil {
		return nil, nil
	}
	return slices.MinFunc(others, func(a, b *Samples) int { return cmp.Compare(a.Key.System, b.Key.System) }).Samples, nil
}

func (s *Samples) samples() []estimate.Sample {
	if s == nil {
		return nil
	}
	return s.Samples
}

// of returns what is known of a package, or nil; it must not be changed. The caller holds mu, so
// that nothing older comes in afterwards.
func (s *samples) of(k *estimate.Key) (*Samples, error) {
	key := keySamples(k)
	if known, ok := s.known[string(key)]; ok {
		return known, nil
	}
	value, err := get(s.db, key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	var read *Samples
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

// ofPackage is of for whoever does not hold mu.
func (s *samples) ofPackage(k *estimate.Key) (*Samples, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(k)
}

// class returns what is known of a class, or nil.
func (s *samples) class(key string) *estimate.Class {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.classes[key]
}

// classesOf returns what is known of packages with a key's build system, and of all of its kind.
func (s *samples) classesOf(k *estimate.Key) (system, all *estimate.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.BuildSystem != "" {
		system = s.classes[string(keyClass(k.Kind, k.BuildSystem))]
	}
	return system, s.classes[string(keyClass(k.Kind, ""))]
}

// remember replaces what is known with what was written.
func (s *samples) remember(written map[string]*Samples, classes map[string]*estimate.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, samples := range written {
		s.known[key] = samples
		s.systems[samples.Key.System] = true
	}
	for key, c := range classes {
		s.classes[key] = c
	}
}

// putSamples adds samples to those of their package, and to its classes.
func (g *group) putSamples(add *Samples) error {
	key := keySamples(&add.Key)
	old, ok := g.samples[string(key)]
	if !ok {
		var err error
		if old, err = g.w.samples.ofPackage(&add.Key); err != nil {
			return err
		}
	}
	next, added := old.with(add)
	for i := range added {
		g.observe(keyClass(add.Key.Kind, ""), &added[i])
		if add.Key.BuildSystem != "" {
			g.observe(keyClass(add.Key.Kind, add.Key.BuildSystem), &added[i])
		}
	}
	g.samples[string(key)] = next
	value, err := next.encode()
	if err != nil {
		return err
	}
	return g.batch.Set(key, value, nil)
}

func (g *group) observe(key []byte, s *estimate.Sample) {
	c := g.classes[string(key)]
	if c == nil {
		c = new(estimate.Class)
		if old := g.w.samples.class(string(key)); old != nil {
			*c = *old
		}
		g.classes[string(key)] = c
	}
	c.Observe(s)
}

// with returns samples with others added, and which of those are new. The receiver may be nil, and is
// not changed. Samples of this farm stand before imported ones; none of these is taken twice.
func (s *Samples) with(add *Samples) (all *Samples, added []estimate.Sample) {
	all = &Samples{Key: estimate.Key{Kind: add.Key.Kind, Name: add.Key.Name, System: add.Key.System, BuildSystem: add.Key.BuildSystem}}
	if s != nil {
		all.Key.BuildSystem = cmp.Or(all.Key.BuildSystem, s.Key.BuildSystem)
	}
	old := s.samples()
	for i := range add.Samples {
		sample := add.Samples[i]
		same := func(other estimate.Sample) bool { return sample.Same(&other) }
		if sample.Imported && (slices.ContainsFunc(old, same) || slices.ContainsFunc(added, same)) {
			continue
		}
		sample.System = add.Key.System
		added = append(added, sample)
	}
	all.Samples = slices.Concat(added, old)
	if slices.ContainsFunc(added, func(sample estimate.Sample) bool { return sample.Imported }) { // else they are in order
		slices.SortStableFunc(all.Samples, func(a, b estimate.Sample) int {
			switch {
			case !a.Imported && !b.Imported:
				return 0 // as they came: clocks can be wrong
			case a.Imported && b.Imported:
				return b.Time.Compare(a.Time)
			case a.Imported:
				return 1
			}
			return -1
		})
	}
	if most := samplesOf(add.Key.Kind); len(all.Samples) > most {
		all.Samples = slices.Clip(all.Samples[:most])
		added = slices.DeleteFunc(added, func(sample estimate.Sample) bool {
			return !slices.ContainsFunc(all.Samples, func(kept estimate.Sample) bool { return sample.Same(&kept) })
		})
	}
	return all, added
}

// storedSamples are samples as they are stored, as JSON.
type storedSamples struct {
	BuildSystem string            `json:"buildSystem,omitempty"`
	Samples     []estimate.Sample `json:"samples"`
}

func (s *Samples) encode() ([]byte, error) {
	return encode(storedSamples{s.Key.BuildSystem, s.Samples}, api.MaxRecord)
}

// decodeSamples reads the samples of a package. With an error, a *RecordError, it returns those
// that can be used, or nil.
func decodeSamples(key, value []byte) (*Samples, error) {
	k, err := decodeSamplesKey(key)
	if err != nil {
		return nil, unusable(err, "samples %q", key[1:])
	}
	what := fmt.Sprintf("samples of %s %s for %s", k.Kind, k.Name, k.System)
	var stored storedSamples
	if err := json.Unmarshal(value, &stored); err != nil {
		return nil, unusable(err, "%s", what)
	}
	k.BuildSystem = stored.BuildSystem
	if err := validBuildSystem(k.BuildSystem); err != nil {
		return nil, unusable(err, "%s", what)
	}
	var good []estimate.Sample
	for i := range stored.Samples {
		s := &stored.Samples[i]
		s.System = k.System
		if bad := validSample(s); bad != nil {
			err = bad
		} else {
			good = append(good, *s)
		}
	}
	if most := samplesOf(k.Kind); len(good) > most {
		good, err = good[:most], fmt.Errorf("%d samples, at most %d are kept", len(good), most)
	}
	if err != nil {
		err = unusable(err, "%s", what)
	}
	return &Samples{Key: k, Samples: good}, err
}

func decodeClass(key, value []byte) (*estimate.Class, error) {
	kind, system, _ := strings.Cut(string(key[1:]), "\x00")
	c, err := decode(value, (*estimate.Class).Valid)
	if err := errors.Join(err, validKind(estimate.Kind(kind)), validBuildSystem(system)); err != nil {
		return nil, unusable(err, "class %q", key[1:])
	}
	return c, nil
}

// oldSample is one of format 3, where a package, its source and the modules of its build had one
// name, and nothing but the time was measured.
type oldSample struct {
	Machine string    `json:"machine"`
	Speed   float64   `json:"speed"`
	Seconds float64   `json:"seconds"`
	Time    time.Time `json:"time"`
}

// migrateSamples makes samples of a package of an entry of format 3. Of which version they are is
// not known, so they count less than those that are measured from now on. With an error, it returns
// those that can be used, or nil.
func migrateSamples(key, value []byte) (*Samples, error) {
	system, name, _ := strings.Cut(string(key[1:]), "\x00")
	s := &Samples{Key: estimate.Key{Kind: estimate.Package, Name: name, System: system}}
	var old []oldSample
	what := strings.ReplaceAll(string(key[1:]), "\x00", " ")
	err := errors.Join(validKey(&s.Key), json.Unmarshal(value, &old))
	if err != nil {
		return nil, unusable(err, "durations of %q", what)
	}
	for _, o := range old[:min(len(old), estimate.MaxSamples)] {
		sample := estimate.Sample{
			System: system, Machine: o.Machine, Speed: o.Speed, Duration: time.Duration(min(o.Seconds*1e9, math.MaxInt64/2)), Time: o.Time,
		}
		if bad := validSample(&sample); bad != nil {
			err = bad
			continue
		}
		s.Samples = append(s.Samples, sample)
	}
	if err != nil {
		err = unusable(err, "durations of %q", what)
	}
	return s, err
}
