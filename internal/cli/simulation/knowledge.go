package simulation

import (
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
)

// knowledge is all that was measured of earlier builds. The zero value is that nothing was.
type knowledge struct {
	packages map[estimate.Key][]estimate.Sample // by kind, name and system
	systems  map[string]*estimate.Class         // packages by build system
	kinds    map[estimate.Kind]*estimate.Class
}

func newKnowledge() *knowledge {
	return &knowledge{
		packages: make(map[estimate.Key][]estimate.Sample), systems: make(map[string]*estimate.Class), kinds: make(map[estimate.Kind]*estimate.Class),
	}
}

// maxKnown bounds how many packages are remembered.
const maxKnown = 500_000

// add takes what was measured of one package. What comes after maxKnown packages is dropped.
func (k *knowledge) add(s *ledger.Samples) {
	if len(k.packages) >= maxKnown {
		return
	}
	k.packages[estimate.Key{Kind: s.Key.Kind, Name: s.Key.Name, System: s.Key.System}] = s.Samples
	for i := range s.Samples {
		observe(k.kinds, s.Key.Kind, &s.Samples[i])
		if s.Key.BuildSystem != "" {
			observe(k.systems, s.Key.BuildSystem, &s.Samples[i])
		}
	}
}

func observe[K comparable](classes map[K]*estimate.Class, key K, s *estimate.Sample) {
	if classes[key] == nil {
		classes[key] = new(estimate.Class)
	}
	classes[key].Observe(s)
}

// of says what a build will probably take.
func (k *knowledge) of(key estimate.Key) estimate.Estimate {
	samples := k.packages[estimate.Key{Kind: key.Kind, Name: key.Name, System: key.System}]
	return estimate.Of(key, samples, k.systems[key.BuildSystem], k.kinds[key.Kind])
}

// ofName says it of a build of which only the name is known.
func (k *knowledge) ofName(name, system string) estimate.Estimate {
	return k.of(estimate.KeyOf(estimate.Build{Name: name, System: system}))
}
